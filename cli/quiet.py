"""Keeping TensorFlow's start-up remarks off the user's terminal."""

import os
import sys


def import_tensorflow() -> None:
    """Imports TensorFlow with the standard error stream of its C++ part closed.

    TF_CPP_MIN_LOG_LEVEL does not silence what is logged before its logger is ready. A failing import still raises.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
