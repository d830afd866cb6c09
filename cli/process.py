"""What the process of a command needs: standard streams, a home folder, warnings of this package only."""

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputWarning


def open_standard_streams() -> None:
    """Gives a command that was started without standard streams (``2>&-``) ones that lead nowhere.

    Without them the first file that is opened would take the descriptor of standard error, and be written over.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free descriptor, this one.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def replace_missing_home() -> None:
    """Gives Keras and matplotlib a folder for their settings where the user has no home, or none to write in.

    A container's or a batch system's user is often a number without an entry in the list of users.
    """
    home = os.path.expanduser("~")  # noqa: PTH111  -- pathlib raises where there is none
    if home != "~" and os.access(home, os.W_OK):
        return
    with contextlib.suppress(OSError):
        place = Path(tempfile.gettempdir(), f"brainseg-tf-{os.getuid()}")
        place.mkdir(mode=0o700, exist_ok=True)
        for variable in ("KERAS_HOME", "MPLCONFIGDIR"):
            os.environ.setdefault(variable, str(place))


def show_own_warnings_only() -> None:
    """Shows warnings of this package as one line, and none of the libraries': they tell a user nothing."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", InputWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)
