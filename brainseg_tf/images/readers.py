"""Checks that all image readers share, and the conversion of library errors to ``InputError``."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable

# 640 voxels along each side: more than any brain scan has. Such a scan is read within 4 GB of memory.
MAX_VOXELS = 2**28


@contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """Converts any exception that is raised while a file is read to an ``InputError`` of one line.

    Args:
        path: the file.
        problem: the text of the error after the file's name: what is wrong and what to do.

    Raises:
        InputError: the block raised an exception. ``InputError`` and ``MemoryError`` are passed on unchanged.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{printable(path)}: no permission to read it; change its permissions") from error
    except Exception as error:
        raise InputError(f"{printable(path)}: {problem}") from error


def check_kind(path: Path) -> None:
    """Checks that a path is a file with content or a readable folder.

    Special files are not opened, because opening a pipe can block forever.

    Raises:
        InputError: the path is missing, a broken link, an empty file, a folder without read permission, or a pipe,
            socket or device.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()
            return
    except PermissionError as error:
        raise InputError(f"{printable(path)}: no permission to read it; change its permissions") from error
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise InputError(
                f"{printable(path)}: is a link to a file that does not exist; fetch it (git annex get, datalad get)"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise InputError(f"{printable(path)}: no such file; check the path") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{printable(path)}: cannot be opened ({reason}); check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{printable(path)}: is a pipe, a socket or a device; give a file or a folder")
    if status.st_size == 0:
        raise InputError(f"{printable(path)}: is empty (0 bytes); copy or convert it again")


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Checks the shape of an image before memory is allocated for it.

    Raises:
        InputError: an axis has no voxels, or the image has more than ``MAX_VOXELS`` voxels.
    """
    if min(shape, default=1) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        claimed = " x ".join(str(int(n)) for n in shape)
        if min(shape) > 0 and len(shape) > 3 and np.prod(shape[:3], dtype=np.float64) <= MAX_VOXELS:
            raise InputError(f"{printable(path)}: has shape {claimed}; one 3D volume is needed, extract one")
        raise InputError(
            f"{printable(path)}: the header claims {claimed} voxels, which no brain scan has; repair the header or "
            "export the scan again"
        )
