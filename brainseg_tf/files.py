"""Files are written beside their place and renamed, so that a reader never sees half of one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from brainseg_tf.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path (same folder, same suffixes) that takes ``path``'s place if the block succeeds.

    Works for a file and for a whole folder. After a failure nothing is left behind and what stood at ``path``
    before stands there still.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}-{path.name}")
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
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask the same out of a folder; a process that dies lets go of it.

    Raises:
        InputError: another process is in it.
    """
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(blocking=False):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another run is at work in it; wait for it, or choose another --out") from error


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Refuses an output path early, before minutes of work are spent on what cannot be written.

    Raises:
        InputError: the folder is missing or read-only, or the file exists and ``overwrite`` is not set.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give --overwrite to replace it, or another name")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}; choose another place")


def make_folder(path: Path) -> None:
    """Creates a folder for results, with its parents, if it is not there.

    Raises:
        InputError: it cannot be created, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be created ({error.strerror}); choose another folder") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: no permission to write in it; choose another folder")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as indented JSON, in one step."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
