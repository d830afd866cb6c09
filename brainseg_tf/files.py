"""Files are written beside their place and renamed, so that a reader never sees half of one."""

import errno
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from brainseg_tf.errors import InputError, InputWarning

# What most file systems allow for a name, in bytes; asked of the file system where that is possible.
_USUAL_NAME_BYTES = 255
# What a file system without locks answers.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def printable(text: object) -> str:
    """Text that is safe on a terminal, in a table and in a page: one line, and valid UTF-8.

    Control characters, line separators and bytes of a file name that are not UTF-8 become backslash escapes; all else
    stays as it is.
    """
    return "".join(one if one == " " or one.isprintable() else _escaped(one) for one in str(text))


def _escaped(character: str) -> str:
    code = ord(character)
    # os.fsdecode keeps a byte that is not UTF-8 as a surrogate from U+DC80 to U+DCFF.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path (same folder, same suffixes) that takes ``path``'s place if the block succeeds.

    Works for a file and for a whole folder. After a failure nothing is left behind and what stood at ``path``
    before stands there still. The temporary name cannot be foreseen: processes on several machines or in several
    containers, whose process ids are alike, can write to one folder.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    path = Path(path)
    # Only the suffixes are kept: the whole name with a prefix could be longer than the file system allows.
    beside = path.with_name(f".{secrets.token_hex(8)}{''.join(path.suffixes[-2:])[-32:]}")
    try:
        yield beside
        if beside.is_dir() and path.is_dir():
            shutil.rmtree(path)
        beside.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename).name != beside.name:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask the same out of a folder; a process that dies lets go of it.

    A file system without locks gives a warning, and no protection.

    Raises:
        InputError: another process is in it.
    """
    try:
        with _locked(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another run is at work in it; wait for it, or choose another --out") from error


@contextmanager
def waiting_for(file: Path, seconds: float = 60.0) -> Iterator[None]:
    """Holds a lock on ``file`` while it is read and written anew; other processes wait for it.

    The lock is a hidden file beside it. A file system without locks gives a warning, and no protection.

    Raises:
        InputError: another process has held it for ``seconds``.
    """
    try:
        with _locked(file.with_name(f".{file.name}.lock"), timeout=seconds):
            yield
    except Timeout as error:
        raise InputError(f"{file}: another run has held it for {seconds:.0f} s; wait for it, then try again") from error


@contextmanager
def _locked(place: Path, **options: Any) -> Iterator[None]:
    # A lock that is a file alone would outlive a process that is killed.
    lock = FileLock(place, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(**options)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise InputError(
                f"{place.parent}: no lock can be made in it ({error.strerror}); choose another folder"
            ) from error
        warnings.warn(
            InputWarning(f"{place.parent}: this file system has no locks; start no second run in this folder"),
            stacklevel=2,
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def check_name_length(path: Path) -> None:
    """Refuses a name that is longer than the file system of its folder allows.

    Raises:
        InputError: it is.
    """
    folder = path.parent
    try:
        most = os.pathconf(folder, "PC_NAME_MAX") if folder.is_dir() else _USUAL_NAME_BYTES
    except (OSError, ValueError):
        most = _USUAL_NAME_BYTES
    length = len(os.fsencode(path.name))
    if length > most:
        raise InputError(f"{path}: the name has {length} bytes, {most} are allowed here; shorten the scan's name")


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Refuses an output path early, before minutes of work are spent on what cannot be written.

    Raises:
        InputError: the folder is missing or read-only, the name is too long, or the file exists and ``overwrite`` is
            not set.
    """
    path = Path(path)
    check_name_length(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; give --overwrite to replace it, or another name")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); choose another place") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}; choose another place")


def make_folder(path: Path) -> None:
    """Creates a folder for results, with its parents, if it is not there.

    Raises:
        InputError: it cannot be created, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be created ({_reason(error)}); choose another folder") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: no permission to write in it; choose another folder")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as indented JSON, in one step."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
