"""Symbolic links for libraries that cannot open a file or folder by its own name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable

# TensorFlow takes the name of a checkpoint for a pattern.
_PATTERN = set("[]*?" if os.sep == "\\" else "[]*?\\")


@contextmanager
def linked(path: Path, name: str) -> Iterator[Path]:
    """A symbolic link to a file or folder, in a temporary folder of its own.

    Args:
        path: the file or folder.
        name: of the link.

    Raises:
        InputError: the link cannot be made.
    """
    with ExitStack() as stack:
        try:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="brainseg-tf-")), name)
            link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
        except OSError as error:
            raise InputError(
                f"{printable(path)}: cannot be opened by this name, and no link to it can be made "
                f"({error.strerror or error}); rename it"
            ) from error
        yield link


@contextmanager
def for_tensorflow(folder: Path, *, any_bytes: bool = False) -> Iterator[Path]:
    """A path by which TensorFlow can read and write an existing folder: its own, or a link.

    Checkpoints are not found in a folder with brackets in its path, since they are taken for a pattern. TensorFlow's
    Python package needs names in UTF-8.

    Args:
        folder: the folder.
        any_bytes: whether names that are not UTF-8 are possible, as in the C library.

    Raises:
        InputError: a link is needed and cannot be made.
    """
    if (any_bytes or is_utf8(str(folder))) and _PATTERN.isdisjoint(str(folder)):
        yield folder
        return
    with linked(folder, "folder") as link:
        yield link


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8; names of other bytes contain surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
