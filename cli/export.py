"""``brainseg-tf export``."""

from pathlib import Path

import click

from brainseg_tf_cli.options import FILE, shipped_names


@click.command(short_help="Add a model to a model repository of TensorFlow Serving.")
@click.argument("model", shell_complete=shipped_names)
@click.option(
    "--to", "repository", type=FILE, required=True, help="Model repository: the folder of models that the server reads."
)
@click.option(
    "--version", type=click.IntRange(1, 2**63 - 1), help="Number of the new version.  [default: that of MODEL]"
)
def export(model: str, repository: Path, version: int | None) -> None:
    """Add MODEL to a model repository as NAME/VERSION.

    MODEL is the name of a shipped model (shipped:NAME/VERSION for an older version) or the folder of a trained model.
    Text with a slash, or that begins with a dot, is always a folder, for instance ./NAME.

    A server that polls the repository never reads an incomplete version. An existing version is never replaced.
    """
    from brainseg_tf.saved_model import find_any
    from brainseg_tf.serving.repository import publish

    click.echo(f"{publish(find_any(model), repository, version)}: exported")
