"""Atomic writing of files, locks, checks of output paths, and printable text."""

import csv
import errno
import json
import os
import secrets
import shutil
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from brainseg_tf.errors import InputError, InputWarning, LockedError

# Largest file name in bytes on most file systems, if the file system does not state its limit.
_USUAL_NAME_BYTES = 255
# Error numbers of file systems without locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextmanager
def explain_csv_errors(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Converts the errors of reading a CSV file into one-line messages.

    Args:
        path: the file.
        what: the words after the file name, for instance "cannot be read as a table".
        remedy: what the user can do.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is not the table that was expected (``ValueError``).
    """
    try:
        yield
        return
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except (ValueError, csv.Error) as error:
        reason = printable(error)
    raise InputError(f"{printable(path)}: {what} ({reason}); {remedy}")


def printable(text: object) -> str:
    """Text as one line of valid UTF-8, for a terminal, a table or a page.

    Control characters, line separators and bytes of a file name that are not UTF-8 are replaced by backslash escapes.
    """
    return "".join(
        character if character == " " or character.isprintable() else _escaped(character) for character in str(text)
    )


def _escaped(character: str) -> str:
    code = ord(character)
    # os.fsdecode keeps a byte that is not UTF-8 as a surrogate from U+DC80 to U+DCFF.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


@contextmanager
def replacing(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Replaces a file atomically, or a folder in one step.

    The block writes to a temporary path in the same folder with the same suffixes, which is renamed to ``path`` at the
    end. If the block fails, the temporary file is removed and ``path`` is unchanged. The temporary name is random,
    because processes on other machines or in other containers can have the same process id and write to the same
    folder.

    Args:
        path: the file or folder.
        new: a folder must not exist yet when it gets its name.

    Yields:
        The temporary path.

    Raises:
        InputError: the path cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir() and not new:
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename).name != temporary.name:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another path") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A random hidden path in the same folder.

    It has only the suffixes of the original name, so that it is not too long for the file system.
    """
    return path.with_name(f".{secrets.token_hex(8)}{''.join(path.suffixes[-2:])[-32:]}")


@contextmanager
def replacing_all(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Replaces several files, see ``replacing``: all of them, or none if the block or a renaming fails.

    The existing files are renamed in order before the new ones get their names in reverse order. So if the process is
    killed, the first file is missing unless all others are of one run.

    Args:
        paths: the files, by name.

    Yields:
        The temporary paths, by name.

    Raises:
        InputError: a file cannot be written. Messages name the files, not the temporary ones.
    """
    staged = {name: _temporary(path) for name, path in paths.items()}
    old: dict[Path, Path] = {}
    ours: dict[Path, os.stat_result] = {}
    try:
        yield staged
        for path in paths.values():
            hidden = _temporary(path)
            with suppress(FileNotFoundError):  # There is none, or another run has just taken it away.
                path.replace(hidden)
                old[path] = hidden
        for name in reversed(list(paths)):
            ours[paths[name]] = staged[name].stat()
            staged[name].replace(paths[name])
    except BaseException as error:
        restored, old = old, {}
        for path in reversed(list(paths.values())):
            before = restored.get(path)
            if not _is_free(path, ours.get(path)):  # Another run has written it meanwhile.
                if before is not None:
                    before.unlink()
            elif before is not None:
                before.replace(path)
            elif path in ours:
                path.unlink(missing_ok=True)
        if problem := _explained(error, staged, paths):
            raise problem from error
        raise
    finally:
        for temporary in (*staged.values(), *old.values()):
            temporary.unlink(missing_ok=True)


def _is_free(path: Path, ours: os.stat_result | None) -> bool:
    """Whether a file is missing, or is the one that this run has put there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    return ours is not None and (found.st_ino, found.st_mtime_ns) == (ours.st_ino, ours.st_mtime_ns)


def _explained(error: BaseException, staged: Mapping[str, Path], paths: Mapping[str, Path]) -> InputError | None:
    """The error of writing several files with the names of these files, not the temporary ones; None for others."""
    if isinstance(error, InputError):
        message = str(error)
        for name, path in paths.items():
            message = message.replace(str(staged[name]), str(path))
        return InputError(message)
    if not isinstance(error, OSError):
        return None
    files = {file.name: path for name, path in paths.items() for file in (staged[name], path)}
    # The error of a full disk has no file name.
    place = files.get(Path(error.filename).name) if error.filename is not None else [*paths.values()][-1]
    if place is None:
        return None
    return InputError(f"{place}: cannot be written ({error.strerror or error}); choose another path")


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes that call this function; the lock ends with the process.

    On a file system without locks there is a warning and no lock.

    Args:
        folder: it must exist.

    Raises:
        InputError: another process has locked the folder, or the lock cannot be created.
    """
    try:
        with _locked(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another run is using this folder; wait for it, or choose another --out") from error


@contextmanager
def file_lock(file: Path, seconds: float = 60.0) -> Iterator[None]:
    """Locks a file while it is read and rewritten; other processes that call this function wait.

    The lock is a hidden file in the same folder. On a file system without locks there is a warning and no lock.

    Args:
        file: it can be missing.
        seconds: longest time to wait for the lock.

    Raises:
        LockedError: another process holds the lock for longer than ``seconds``.
        InputError: the lock cannot be created.
    """
    try:
        with _locked(file.with_name(f".{file.name}.lock"), timeout=seconds):
            yield
    except Timeout as error:
        raise LockedError(
            f"{file}: another run has locked it for {seconds:.0f} s; wait for that run, then try again"
        ) from error


@contextmanager
def _locked(path: Path, **options: Any) -> Iterator[None]:
    # No soft lock: the file of a soft lock remains if its process is killed.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(**options)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise InputError(
                f"{path.parent}: no lock can be created in this folder ({error.strerror}); choose another folder"
            ) from error
        warnings.warn(
            InputWarning(f"{path.parent}: the file system has no locks; do not start a second run in this folder"),
            stacklevel=2,
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False if this cannot be determined."""
    try:
        return path.is_dir()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Whether a path exists.

    Raises:
        InputError: this cannot be determined: no permission, or the name is too long.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)}: cannot be opened ({_reason(error)}); check the path") from error


def folded(name: str) -> str:
    """A name without the differences that some file systems ignore: case and the Unicode form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def check_name_length(path: Path) -> None:
    """Checks that a file name is not longer than the file system allows.

    Raises:
        InputError: it is too long.
    """
    folder = path.parent
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX") if folder.is_dir() else _USUAL_NAME_BYTES
    except (OSError, ValueError, AttributeError):  # Windows does not have this function.
        limit = _USUAL_NAME_BYTES
    length = len(os.fsencode(path.name))
    if length > limit:
        raise InputError(
            f"{path}: the file name has {length} bytes, the file system allows {limit}; shorten the scan's name"
        )


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Checks that an output file can be written, before any work is done.

    Args:
        path: the file.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: the folder is missing or read-only, the name is too long, or the file exists and ``overwrite`` is
            not set.
    """
    path = Path(path)
    check_name_length(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a file")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; give --overwrite to replace it, or another name")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); choose another path") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}; choose another path")


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], *, overwrite: bool = False) -> None:
    """Checks several output files with ``check_writable``, and that no name is used twice, see ``folded``.

    Args:
        outputs: the files.
        inputs: files that are read.
        overwrite: whether existing files may be replaced.

    Raises:
        InputError: as for ``check_writable``; or an output has the name of an input or of another output.
    """
    taken = {_place(file) for file in inputs}
    for path in outputs:
        if _place(path) in taken:
            raise InputError(f"{path}: is named twice; give each output its own name")
        taken.add(_place(path))
        check_writable(path, overwrite=overwrite)


def _place(path: Path) -> tuple[Path, str]:
    resolved = path.resolve()
    return resolved.parent, folded(resolved.name)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents if they are missing.

    Raises:
        InputError: the folder cannot be created or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be created ({_reason(error)}); choose another folder") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: no permission to write in it; choose another folder")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes indented JSON atomically, see ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
