"""``brainseg-tf export``."""

from pathlib import Path

import click

from brainseg_tf_cli.options import FILE, shipped_names


@click.command(short_help="Lay a model out for TensorFlow Serving.")
@click.argument("model", shell_complete=shipped_names)
@click.option("--to", "repository", type=FILE, required=True, help="The folder of models that the server reads.")
@click.option(
    "--version", type=click.IntRange(1, 2**63 - 1), help="The new version's number.  [default: the model's own]"
)
def export(model: str, repository: Path, version: int | None) -> None:
    """Add MODEL to a folder of models as NAME/VERSION.

    MODEL is a shipped model's name (shipped:NAME/VERSION for an older version of it) or a folder that fit made. What
    has a slash in it, or begins with a dot, is a folder: ./NAME.

    The version appears all at once: a server that polls the folder never sees half a model. A version that is there
    already is never replaced.
    """
    from brainseg_tf.saved_model import find
    from brainseg_tf.serving.repository import publish

    click.echo(f"{publish(find(model), repository, version)}: exported")
