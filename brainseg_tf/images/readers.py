"""What all readers of scans share: a path that can be opened at all, and one line for whatever a library raises."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable

# 640 voxels a side: more than any brain scan has, and what still fits into 4 GB while it is read.
MAX_VOXELS = 2**28


@contextmanager
def reading(path: Path, trouble: str) -> Iterator[None]:
    """Turns whatever a library raises for a file into one line.

    Args:
        path: the file.
        trouble: what the line says is wrong, with the remedy.

    Raises:
        InputError: the block raised anything but MemoryError.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{printable(path)}: no permission to read it; change its permissions") from error
    except Exception as error:
        raise InputError(f"{printable(path)}: {trouble}") from error


def check_kind(path: Path) -> None:
    """Refuses what is neither a file nor a folder, without opening it: a pipe would wait for ever.

    Raises:
        InputError: that, or it is missing, empty, or a folder that may not be read.
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
                f"{printable(path)}: is a link to a file that is not there; fetch it (git annex get, datalad get)"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise InputError(f"{printable(path)}: no such file; check the path") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{printable(path)}: cannot be opened ({reason}); check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{printable(path)}: is a pipe, a socket or a device; name a file or a folder")
    if status.st_size == 0:
        raise InputError(f"{printable(path)}: is empty (0 bytes); copy or convert it again")


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Refuses a shape before memory is asked for.

    Raises:
        InputError: an axis has less than 1 voxel, or there are more in all than ``MAX_VOXELS``.
    """
    if min(shape, default=1) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        claimed = " x ".join(str(int(n)) for n in shape)
        raise InputError(
            f"{printable(path)}: the header claims {claimed} voxels, which no brain scan has; the header is damaged"
        )
