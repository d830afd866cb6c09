"""``brainseg-tf serving-config``."""

from pathlib import Path

import click

from brainseg_tf_cli.options import FILE
from brainseg_tf_cli.tensorflow_import import import_tensorflow


@click.command(short_help="Write configuration files for TensorFlow Serving.")
@click.argument("models", type=FILE)
@click.option("--out", type=FILE, required=True, help="Folder for the files.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def serving_config(models: Path, out: Path, overwrite: bool) -> None:
    """Write the configuration for serving all models in the folder MODELS, which `brainseg-tf export` writes.

    The files are models.config, batching.config, monitoring.config, docker-compose.yml, kubernetes-models.yml and
    kubernetes.yml. In models.config the newest version of each model has the label canary, the previous one the label
    stable.

    TensorFlow Serving has no authentication. Keep its ports on this machine or behind a proxy, see docs/serving.md.
    """
    import_tensorflow()
    from brainseg_tf.serving.configuration import write_configuration

    for file in write_configuration(models, out, overwrite=overwrite):
        click.echo(f"{file}: written")
