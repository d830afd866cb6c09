"""Reading and checking of JSON files. Any damage gives an ``InputError`` with a message of one line."""

import json
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.schema import Kind, MismatchError, quoted

# Size limit in bytes. The largest valid file, the model card of thousands of patients, has a tenth of this.
LARGEST_FILE = 16_000_000
_MOST_DIGITS = 400


def read_json(file: Path, kind: Kind, *, what: str, remedy: str) -> Any:
    """Reads a JSON file and checks it.

    Args:
        file: the file, in UTF-8. A file above 16 MB is refused.
        kind: the schema. No schema accepts NaN and infinity, although Python's parser does.
        what: what the file should be, for the message, for instance "a model card".
        remedy: what the user can do, for the message, for instance "export the model again".

    Returns:
        The content, as ``kind.check`` returns it.

    Raises:
        InputError: the file cannot be read, is not JSON, or does not fit the schema. The message names the file, the
            field and the remedy.
    """
    content = parse_json(file, what=what, remedy=remedy)
    try:
        return kind.check(content, "")
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is not {what} ({mismatch}); {remedy}") from mismatch


def parse_json(file: Path, *, what: str, remedy: str) -> Any:
    """Reads a JSON file like ``read_json``, but without a schema."""
    try:
        # Reading from a device or a pipe might never end.
        if not file.is_file():
            raise ValueError("no such file" if not file.exists() else "it is not a regular file")
        size = file.stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f"its size of {size / 1e6:.0f} MB exceeds the limit")
        text = file.read_bytes().decode("utf-8-sig")
        return json.loads(text, parse_int=_integer, object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise InputError(f"{printable(file)}: cannot be read ({error.strerror or error}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(file)}: is not {what} (not UTF-8 at byte {error.start}); {remedy}") from error
    except json.JSONDecodeError as error:
        reason = f"not JSON in line {error.lineno}: {error.msg}"
        raise InputError(f"{printable(file)}: is not {what} ({reason}); {remedy}") from error
    except RecursionError as error:
        raise InputError(f"{printable(file)}: is not {what} (it is nested too deeply); {remedy}") from error
    except ValueError as error:
        raise InputError(f"{printable(file)}: is not {what} ({printable(error)}); {remedy}") from error


def _integer(digits: str) -> int:
    # For thousands of digits Python's own error message would suggest to change an interpreter setting.
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it contains a number of {len(digits)} digits")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"it contains the field {quoted(duplicate)} twice")
    return found
