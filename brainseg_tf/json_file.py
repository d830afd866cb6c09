"""Reading JSON that may be damaged: whatever is wrong with it is one line."""

import json
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.schema import Kind, MismatchError, quoted

# Bytes. The largest file that is read this way, the model card of thousands of patients, has a tenth of this.
LARGEST_FILE = 16_000_000
_MOST_DIGITS = 400


def read_json(file: Path, kind: Kind, *, what: str, remedy: str) -> Any:
    """Reads a JSON file and checks it.

    Args:
        file: UTF-8; a file above 16 MB is not read.
        kind: the schema. NaN and infinity, which Python's parser takes, are numbers to no kind.
        what: what the file should be, for the message: "a model card".
        remedy: what the user can do, for the message: "export the model again".

    Returns:
        What ``kind.check`` returns.

    Raises:
        InputError: the file cannot be read, is not JSON, or does not fit; one line that names the file, the field and
            the remedy.
    """
    content = parse_json(file, what=what, remedy=remedy)
    try:
        return kind.check(content, "")
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is not {what} ({mismatch}); {remedy}") from mismatch


def parse_json(file: Path, *, what: str, remedy: str) -> Any:
    """Reads a JSON file, see ``read_json``, without a look at what is in it."""
    try:
        # A device or a pipe would have no end.
        if not file.is_file():
            raise ValueError("no such file" if not file.exists() else "it is not a regular file")
        size = file.stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f"{size / 1e6:.0f} MB are too many")
        text = file.read_bytes().decode("utf-8-sig")
        return json.loads(text, parse_int=_whole, object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise InputError(f"{printable(file)}: cannot be read ({error.strerror or error}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(file)}: is not {what} (not UTF-8 at byte {error.start}); {remedy}") from error
    except json.JSONDecodeError as error:
        reason = f"not JSON in line {error.lineno}: {error.msg}"
        raise InputError(f"{printable(file)}: is not {what} ({reason}); {remedy}") from error
    except RecursionError as error:
        raise InputError(f"{printable(file)}: is not {what} (it is nested too deep); {remedy}") from error
    except ValueError as error:
        raise InputError(f"{printable(file)}: is not {what} ({printable(error)}); {remedy}") from error


def _whole(digits: str) -> int:
    # Python refuses thousands of digits with a remark on its own settings.
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"the field {quoted(twice)} is there twice")
    return found
