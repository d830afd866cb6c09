"""Importing TensorFlow without its log messages on the terminal."""

import os
import sys
from typing import Any


def import_tensorflow() -> None:
    """Imports TensorFlow with the standard error stream of its C++ part closed.

    TF_CPP_MIN_LOG_LEVEL does not silence what is logged before its logger is ready. What Python itself writes
    meanwhile, another thread's error message for one, still comes through, and a failing import still raises.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    ours, nowhere = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    try:
        copy = os.dup(2)
    except OSError:  # Standard error is closed: there is nothing to keep silent.
        os.close(nowhere)
        import tensorflow

        return
    with os.fdopen(copy, "w", buffering=1, encoding="utf-8", errors="backslashreplace") as aside:
        try:
            if _goes_to_descriptor_2(ours):
                sys.stderr = aside
            os.dup2(nowhere, 2)
            import tensorflow  # noqa: F401
        finally:
            os.dup2(aside.fileno(), 2)
            sys.stderr = ours
            os.close(nowhere)


def _goes_to_descriptor_2(stream: Any) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
