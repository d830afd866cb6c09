"""``brainseg-tf completion``."""

import click

VARIABLE = "_BRAINSEG_TF_COMPLETE"


@click.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and shipped models in SHELL.

    \b
    bash: brainseg-tf completion bash > ~/.local/share/bash-completion/completions/brainseg-tf
    zsh:  brainseg-tf completion zsh > DIR/_brainseg-tf, where DIR is one of $fpath
    fish: brainseg-tf completion fish > ~/.config/fish/completions/brainseg-tf.fish
    """  # noqa: D301  -- the backspace keeps click from joining the lines
    from click.shell_completion import get_completion_class

    from brainseg_tf_cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three.
    click.echo(kind(main, {}, "brainseg-tf", VARIABLE).source())
