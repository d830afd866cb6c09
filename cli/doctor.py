"""``brainseg-tf doctor``."""

import sys

import click

from brainseg_tf_cli.quiet import import_tensorflow


@click.command(short_help="Check the installation.")
def doctor() -> None:
    """Print versions, devices, the models and whether they are whole, and what is missing for which extra.

    Exit code 1 if a package that brainseg-tf needs is missing or too old or new, or a model is damaged.
    """
    import platform

    from brainseg_tf import __version__, installation
    from brainseg_tf.errors import InputError
    from brainseg_tf.saved_model import shipped

    problems = 0
    click.echo(f"brainseg-tf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for extra, packages in installation.requirements().items():
        click.echo(f"\n{f'for [{extra}]' if extra else 'packages'}")
        for package in packages:
            click.echo(f"  {package}")
            problems += not extra and not package.fits
    click.echo("\ndevices")
    import_tensorflow()
    import tensorflow as tf

    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        click.echo(f"  {device.device_type} {details.get('device_name', device.name)}")
    click.echo("\nmodels")
    for model in shipped():
        try:
            model.check()
            state = "whole"
        except InputError as error:
            state, problems = str(error), problems + 1
        digest = model.card.checksums.get("variables/variables.data-00000-of-00001", "no checksum")[:16]
        click.echo(f"  {model.card.name}, version {model.card.version}: {state} ({digest})")
    if problems:
        click.echo(f"Error: {problems} problem(s), see above", err=True)
        sys.exit(1)
