"""``brainseg-tf export``."""

from pathlib import Path

import click

from brainseg_tf_cli.options import FILE, shipped_names
from brainseg_tf_cli.tensorflow_import import import_tensorflow


@click.command(short_help="Add a model to a model repository of TensorFlow Serving, or write it as ONNX.")
@click.argument("model", shell_complete=shipped_names)
@click.option(
    "--to",
    "folder",
    type=FILE,
    required=True,
    help="Model repository: the folder of models that the server reads. For ONNX, the folder of the file.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["savedmodel", "onnx"]),
    default="savedmodel",
    show_default=True,
    help="savedmodel: for TensorFlow Serving; onnx: the file NAME.onnx (pip install 'brainseg-tf[onnx]').",
)
@click.option(
    "--version", type=click.IntRange(1, 10**18 - 1), help="Number of the new version.  [default: that of MODEL]"
)
def export(model: str, folder: Path, kind: str, version: int | None) -> None:
    """Add MODEL to a model repository as NAME/VERSION, or write it as NAME.onnx.

    MODEL is the name of a shipped model (shipped:NAME/VERSION for an older version) or the folder of a trained model.
    Text with a slash, or that begins with a dot, is always a folder, for instance ./NAME.

    A server that polls the repository never reads an incomplete version. An existing version or file is never replaced.
    The ONNX file is compared with the SavedModel on random images before it is written.
    """
    from brainseg_tf.saved_model import find_any

    found = find_any(model)
    if kind == "onnx":
        import_tensorflow()
        from brainseg_tf.serving.onnx_export import export_onnx

        written = export_onnx(found, folder, version)
    else:
        from brainseg_tf.serving.repository import publish

        written = publish(found, folder, version)
    click.echo(f"{written}: exported")
