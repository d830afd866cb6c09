"""``brainseg-tf completion``."""

import click

VARIABLE = "_BRAINSEG_TF_COMPLETE"


@click.command(short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options and names of shipped models.

    \b
    bash: brainseg-tf completion bash > ~/.local/share/bash-completion/completions/brainseg-tf
    zsh:  brainseg-tf completion zsh > DIR/_brainseg-tf, where DIR is one of $fpath
    fish: brainseg-tf completion fish > ~/.config/fish/completions/brainseg-tf.fish
    """  # noqa: D301  -- click does not reflow a paragraph that begins with a backspace
    from click.shell_completion import get_completion_class

    from brainseg_tf_cli.main import main

    completion_class = get_completion_class(shell)
    assert completion_class is not None  # click supports these three shells.
    click.echo(completion_class(main, {}, "brainseg-tf", VARIABLE).source())
