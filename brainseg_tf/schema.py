"""Schemas of JSON files: the type and range of every field.

A schema is composed of the classes in this module, for instance
``Record({"size": Integer(16, 1024), "names": Items(Text())})``. The message of a mismatch has one line and names the
field. (The standard library has no implementation of JSON Schema.)
"""

import json
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

from brainseg_tf.files import printable

# Largest number of characters of a value or name in a message.
_QUOTED_CHARACTERS = 40
# Largest nesting of values without a schema. Deeper ones could exhaust the stack, for instance when they are copied.
_MOST_LEVELS = 16
_LARGEST_INTEGER = 2**63 - 1
# Largest number of characters of one line of text, unless stated.
LONGEST_TEXT = 255


class MismatchError(ValueError):
    """A value that does not fit a schema; the message begins with the dotted name of the field."""


class Kind(Protocol):
    """A schema, or a part of one."""

    def check(self, value: Any, where: str) -> Any:
        """Checks a value.

        Args:
            value: the value, from ``json.loads``.
            where: the dotted name of the field, for the message.

        Returns:
            The value, with lists as tuples.

        Raises:
            MismatchError: the value does not fit.
        """


@dataclass(frozen=True)
class Integer:
    """An integer from ``low`` to ``high``."""

    low: int = 0
    high: int = _LARGEST_INTEGER

    def check(self, value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            _refuse(where, f"an integer {_range(self.low, self.high)}", value)
        return value


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float = 0
    high: float = math.inf

    def check(self, value: Any, where: str) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_INTEGER
        if not (is_number and self.low <= value <= self.high):
            expected = "a finite number" if self.low == -math.inf else f"a number {_range(self.low, self.high)}"
            _refuse(where, expected, value)
        return value


@dataclass(frozen=True)
class Flag:
    """``true`` or ``false``."""

    def check(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            _refuse(where, "true or false", value)
        return value


@dataclass(frozen=True)
class Text:
    """One line of text without control characters, of ``shortest`` to ``longest`` characters."""

    shortest: int = 1
    longest: int = LONGEST_TEXT

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not self.shortest <= len(value) <= self.longest or not value.isprintable():
            _refuse(where, f"one line of text, at most {self.longest} characters", value)
        return value


@dataclass(frozen=True)
class Name:
    """Text that is a valid name of a file or folder, and not a path."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip() or not _is_name(value) or len(value.encode()) > 255:
            _refuse(where, "a name (no path, no control characters)", value)
        return value


@dataclass(frozen=True)
class RelativePath:
    """A relative path with ``/`` between its parts, without ``..``."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > 4096 or not all(map(_is_name, value.split("/"))):
            _refuse(where, "a relative path", value)
        return value


@dataclass(frozen=True)
class Digest:
    """A SHA-256 digest in hexadecimal digits."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            _refuse(where, "a SHA-256 of 64 hexadecimal digits", value)
        return value


@dataclass(frozen=True)
class Choice:
    """One of several words. If ``options`` is a dictionary, keys that are added to it later are valid too."""

    options: Collection[str]

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in self.options:
            _refuse(where, f"one of {', '.join(self.options)}", value)
        return value


@dataclass(frozen=True)
class Nullable:
    """``null``, or a value that fits ``kind``."""

    kind: Kind

    def check(self, value: Any, where: str) -> Any:
        return None if value is None else self.kind.check(value, where)


@dataclass(frozen=True)
class Items:
    """A list of ``least`` to ``most`` items of one kind, all different if ``unique``."""

    kind: Kind
    least: int = 0
    most: int = 1_000_000
    unique: bool = False

    def check(self, value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            _refuse(where, "a list", value)
        if not self.least <= len(value) <= self.most:
            raise MismatchError(f"{where}: expected a list of {self.least} to {self.most} items, found {len(value)}")
        items = tuple(self.kind.check(one, f"{where}[{number}]") for number, one in enumerate(value))
        if self.unique and len(set(items)) < len(items):
            duplicate = next(one for number, one in enumerate(items) if one in items[:number])
            raise MismatchError(f"{where}: contains {quoted(duplicate)} twice")
        return items


@dataclass(frozen=True)
class Pair:
    """The lower and the upper limit of a range, as a list of two numbers."""

    kind: Kind = field(default_factory=Number)

    def check(self, value: Any, where: str) -> tuple[Any, Any]:
        low, high = Items(self.kind, 2, 2).check(value, where)
        if None not in (low, high) and low > high:
            raise MismatchError(f"{where}: expected the lower limit first, found {low:g} before {high:g}")
        return low, high


@dataclass(frozen=True)
class Map:
    """An object with any keys that fit ``key`` and values that fit ``kind``, at least ``least`` of them."""

    kind: Kind
    key: Kind = field(default_factory=Text)
    least: int = 0

    def check(self, value: Any, where: str) -> dict[str, Any]:
        found = _object(value, where)
        if len(found) < self.least:
            raise MismatchError(f"{where}: expected at least {self.least} field(s), found {len(found)}")
        return {
            self.key.check(name, f"{where}, the key"): self.kind.check(one, _field(where, name))
            for name, one in found.items()
        }


@dataclass(frozen=True)
class Record:
    """An object with known fields.

    Attributes:
        required: the schemas of the fields that must be present, by name.
        optional: the schemas of the fields that can be missing.
        rest: the schema of all other fields; if None, there must be no others.
    """

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    rest: Kind | None = None

    def check(self, value: Any, where: str) -> dict[str, Any]:
        found = _object(value, where)
        for name in self.required:
            if name not in found:
                raise MismatchError(f"{_field(where, name)}: is missing")
        known = {**self.required, **self.optional}
        checked = {}
        for name, one in found.items():
            kind = known.get(name, self.rest)
            if kind is None:
                raise MismatchError(f"{_field(where, name)}: is an unknown field")
            checked[name] = kind.check(one, _field(where, name))
        return checked


@dataclass(frozen=True)
class Anything:
    """Any JSON value with finite numbers, text without control characters, and at most 16 levels of nesting."""

    levels: int = _MOST_LEVELS

    def check(self, value: Any, where: str) -> Any:
        if self.levels == 0:
            raise MismatchError(f"{where}: is nested too deeply")
        inner = Anything(self.levels - 1)
        if isinstance(value, dict):
            return {
                _PRINTABLE.check(name, f"{where}, the key"): inner.check(one, _field(where, name))
                for name, one in value.items()
            }
        if isinstance(value, str):
            return _PRINTABLE.check(value, where)
        if isinstance(value, (list, tuple)):
            return tuple(inner.check(one, f"{where}[{number}]") for number, one in enumerate(value))
        if isinstance(value, float) and not math.isfinite(value):
            _refuse(where, "a finite number", value)
        return value


_PRINTABLE = Text(0, 10_000)


def of_dataclass(
    kind: type, kinds: Mapping[str, Kind] = MappingProxyType({}), *, without: Collection[str] = ()
) -> dict[str, Kind]:
    """The schemas of a dataclass' fields, from their types and from the ranges in their metadata (``options.option``).

    ``int`` becomes an integer and ``float`` a number, both at least 0 unless the metadata has another range. A tuple of
    two floats becomes a range. A nested dataclass becomes a record whose fields are optional, because files of older
    versions do not have all of them.

    Args:
        kind: the dataclass.
        kinds: schemas of some fields that replace those from their types.
        without: names of fields that are left out.
    """
    types = typing.get_type_hints(kind)
    included = [one for one in fields(kind) if one.name not in without]
    return {one.name: kinds.get(one.name) or _of_type(types[one.name], one.metadata) for one in included}


def _of_type(annotation: Any, metadata: Mapping[str, Any]) -> Kind:
    least, most = metadata.get("least"), metadata.get("most")
    if annotation is int:
        return Integer(int(least or 0), _LARGEST_INTEGER if most is None else int(most))
    if annotation is float:
        return Number(0 if least is None else least, math.inf if most is None else most)
    if is_dataclass(annotation):
        return Record({}, of_dataclass(typing.cast(type, annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return Choice(typing.get_args(annotation))
    simple: dict[Any, Kind] = {
        bool: Flag(),
        str: Text(),
        tuple[float, float]: Pair(),
    }
    return simple[annotation]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where or "top level", "an object", value)
    return value


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and part.isprintable() and not set(part) & set("/\\")


def _field(where: str, name: str) -> str:
    """The dotted name of a field of an object."""
    short = _shortened(printable(name))
    return f"{where}.{short}" if where else short


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if high in (math.inf, _LARGEST_INTEGER) else f"from {low} to {high}"


def _refuse(where: str, expected: str, value: Any) -> NoReturn:
    raise MismatchError(f"{where}: expected {expected}, found {quoted(value)}")


def quoted(value: Any) -> str:
    """A value in short form for a message, on one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return "a larger number"
    return _shortened(printable(repr(value)))
