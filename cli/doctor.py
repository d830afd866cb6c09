"""``brainseg-tf doctor``."""

import sys

import click

from brainseg_tf_cli.tensorflow_import import import_tensorflow


@click.command(short_help="Check the installation.")
def doctor() -> None:
    """Print the versions of all packages by extra, the devices, and the shipped models.

    A model is intact if its files, its card and its warmup requests match the checksums in the card. The exit code is 1
    if a required package is missing or has an unsupported version, or if a model is damaged.
    """
    import platform

    from brainseg_tf import __version__, installation
    from brainseg_tf.errors import InputError
    from brainseg_tf.saved_model import open_any, shipped_folders

    problems = 0
    click.echo(f"brainseg-tf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for extra, packages in installation.requirements().items():
        click.echo(f"\n{f'for [{extra}]' if extra else 'packages'}")
        for package in packages:
            click.echo(f"  {package}")
            problems += not extra and not package.satisfied
    click.echo("\ndevices")
    import_tensorflow()
    import tensorflow as tf

    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        click.echo(f"  {device.device_type} {details.get('device_name', device.name)}")
    click.echo("\nmodels")
    for name, folder in shipped_folders().items():
        try:
            model = open_any(folder)
            model.check()
        except InputError as error:
            click.echo(f"  {name}, version {folder.name}: {error}")
            problems += 1
            continue
        state = "intact" if model.checks_card else "intact, exported before cards had checksums"
        digest = model.card.checksums.get("variables/variables.data-00000-of-00001", "no checksum")[:16]
        click.echo(f"  {name}, version {model.card.version}: {state} ({digest})")
    if problems:
        click.echo(f"Error: {problems} problem(s), see above", err=True)
        sys.exit(1)
