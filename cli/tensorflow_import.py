"""Importing TensorFlow without its log messages on the terminal, and limiting what it uses."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from brainseg_tf.options import Engine

if TYPE_CHECKING:
    from brainseg_tf.resources import Runtime

_LOCK = Lock()


def prepare_tensorflow(device: str, threads: int | None) -> None:
    """Imports TensorFlow, and limits it to a device and a number of threads.

    Args:
        device: the value of ``--device``.
        threads: the value of ``--threads``.
    """
    import_tensorflow()
    from brainseg_tf.resources import limit_threads, select_device

    limit_threads(threads)
    select_device(device)


def prepare_runtime(engine: Engine, device: str, threads: int | None) -> "Runtime":
    """Loads what runs the networks of a prediction: TensorFlow's C library, or its Python package.

    Args:
        engine: the value of ``--engine``.
        device: the value of ``--device``.
        threads: the value of ``--threads``.

    Raises:
        InputError: the engine is not there, or does not go with the device.
    """
    from brainseg_tf import c_api
    from brainseg_tf.resources import Runtime, choose_engine

    chosen = choose_engine(engine, device)
    if chosen == "tensorflow":
        prepare_tensorflow(device, threads)
    else:
        with _LOCK:
            _silently(c_api.library)
    return Runtime(chosen, threads)


def import_tensorflow() -> None:
    """Imports TensorFlow while descriptor 2 is redirected to the null device.

    TF_CPP_MIN_LOG_LEVEL does not hide messages that are logged before TensorFlow's logger is initialised. Python's own
    output to standard error, for instance of another thread, is still shown during the import, and errors of the import
    are still raised. Several threads may call it: a second redirection during the first would restore the null device.
    """
    with _LOCK:
        if "tensorflow" not in sys.modules:
            _silently(lambda: import_module("tensorflow"))


def _silently(load: Callable[[], object]) -> None:
    """Calls a function while descriptor 2 is redirected."""
    if sys.stderr is not None:
        sys.stderr.flush()
    stderr, null = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    try:
        duplicate = os.dup(2)
    except OSError:  # Standard error is closed, so no message can be shown.
        os.close(null)
        load()
        return
    with os.fdopen(duplicate, "w", buffering=1, encoding="utf-8", errors="backslashreplace") as python_stderr:
        try:
            if _writes_to_descriptor_2(stderr):
                sys.stderr = python_stderr
            os.dup2(null, 2)
            load()
        finally:
            os.dup2(python_stderr.fileno(), 2)
            # Another thread may have replaced it meanwhile.
            if sys.stderr is python_stderr:
                sys.stderr = stderr
            os.close(null)


def _writes_to_descriptor_2(stream: Any) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
