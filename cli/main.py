"""The command ``brainseg-tf``."""

import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType

import click

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf_cli.process import open_standard_streams, replace_missing_home, show_own_warnings_only

COMMANDS = (
    "fit",
    "calibrate",
    "predict",
    "compare",
    "brain",
    "evaluate",
    "models",
    "export",
    "serving-config",
    "doctor",
    "completion",
)


class ErrorsAsMessages(click.Command):
    """A command that ends with exit code 1 and one line after an ``InputError``; it has the option ``--debug``."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            click.echo(f"Error: {printable(error)}", err=True)
            sys.exit(1)


class Commands(ErrorsAsMessages, click.Group):
    """A group that imports the module of a command on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        return getattr(import_module(f"brainseg_tf_cli.{name}"), name)


# Hides log messages of TensorFlow and gRPC. Their errors are still raised as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# By default TensorFlow uses oneDNN only on CPUs with AVX-512. On a CPU with AVX2 it was also faster, by a factor of 1.4
# for selfseg and 2.5 for dcvae (benchmarks/onednn.py). TensorFlow without oneDNN, for instance on Arm, ignores this.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# The user may have set another backend for other programs.
os.environ["KERAS_BACKEND"] = "tensorflow"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainseg-tf")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Unsupervised segmentation of lesions in brain MR images.

    For research; not a medical device.
    """


def run() -> None:
    """The entry point of the installed command."""
    set_up_process()
    main()


def set_up_process() -> None:
    """Prepares streams, home folder, warnings and signals, before a command is run."""
    open_standard_streams()
    replace_missing_home()
    show_own_warnings_only()
    # SIGTERM is handled like an error: incomplete files are removed, and a batch keeps its finished scans.
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    click.echo("Error: terminated", err=True)
    sys.exit(128 + number)
