"""Set-up of the process of a command: standard streams, home folder, threads and warnings."""

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputWarning


def open_standard_streams() -> None:
    """Opens standard streams that are closed (for instance with ``2>&-``) on the null device.

    Otherwise the first file that is opened would get the descriptor of standard error, and messages would overwrite it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # This gets the lowest free descriptor, which is ``descriptor``.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def replace_missing_home() -> None:
    """Sets a temporary folder for the settings of Keras and matplotlib if the user has no writable home folder.

    In containers and batch systems the user is often a number without an entry in the user database.
    """
    home = os.path.expanduser("~")  # noqa: PTH111  -- pathlib raises an error if there is no home folder
    if home != "~" and os.access(home, os.W_OK):
        return
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir(), f"brainseg-tf-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        for variable in ("KERAS_HOME", "MPLCONFIGDIR"):
            os.environ.setdefault(variable, str(folder))


def set_thread_variables(threads: int) -> None:
    """Sets the number of threads of libraries that are not loaded yet, and of programs that this process starts.

    The variables are those of OpenMP, which BLAS libraries read too, and of ITK in SimpleITK.
    """
    for variable in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[variable] = str(threads)


def show_own_warnings_only() -> None:
    """Shows the warnings of this package on one line, and hides those of other packages."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", InputWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *arguments: Any, **more: Any) -> None:
    print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)
