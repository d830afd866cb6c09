"""What a JSON file must hold: the type and range of every field, and one line about the first that does not fit.

A schema is put together from the frozen classes of this module, for instance
``Record({"size": Whole(16, 1024), "sides": Items(Text())})``. The standard library has no JSON Schema.
"""

import json
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

from brainseg_tf.files import printable

# What a message quotes of a wrong value, in characters.
_QUOTED = 40
# Deeper values come from damage or malice, and would exhaust the stack of who copies them.
_DEEPEST = 16
_LARGEST_WHOLE = 2**63 - 1


class MismatchError(ValueError):
    """A value that does not fit; the message begins with the field's dotted name."""


class Kind(Protocol):
    """A part of a schema."""

    def check(self, value: Any, where: str) -> Any:
        """Returns the value, lists as tuples.

        Args:
            value: as ``json.loads`` gives it.
            where: the dotted name of the field.

        Raises:
            MismatchError: the value does not fit.
        """


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int = 0
    high: int = _LARGEST_WHOLE

    def check(self, value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            _refuse(where, f"a whole number {_range(self.low, self.high)}", value)
        return value


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float = 0
    high: float = math.inf

    def check(self, value: Any, where: str) -> float:
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_WHOLE
        if not (known and self.low <= value <= self.high):
            finite = "a finite number" if self.low == -math.inf else f"a number {_range(self.low, self.high)}"
            _refuse(where, finite, value)
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            _refuse(where, "true or false", value)
        return value


@dataclass(frozen=True)
class Text:
    """Text on one line, without control characters, of ``shortest`` to ``longest`` characters."""

    shortest: int = 1
    longest: int = 255

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not self.shortest <= len(value) <= self.longest or not value.isprintable():
            _refuse(where, f"one line of text, at most {self.longest} characters", value)
        return value


@dataclass(frozen=True)
class Name:
    """Text that can be the name of a file or folder, and is no path."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip() or not _is_name(value) or len(value.encode()) > 255:
            _refuse(where, "a name (no path, no control characters)", value)
        return value


@dataclass(frozen=True)
class Place:
    """A relative path with ``/`` between its parts."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > 4096 or not all(map(_is_name, value.split("/"))):
            _refuse(where, "a relative path", value)
        return value


@dataclass(frozen=True)
class Digest:
    """A SHA-256 in hexadecimal digits."""

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            _refuse(where, "a SHA-256 of 64 hexadecimal digits", value)
        return value


@dataclass(frozen=True)
class Choice:
    """One of some words; a dictionary's keys as they are when a value is checked."""

    options: Collection[str]

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in self.options:
            _refuse(where, f"one of {', '.join(self.options)}", value)
        return value


@dataclass(frozen=True)
class Nullable:
    """null, or what ``kind`` takes."""

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
            raise MismatchError(f"{where}: expected a list of {self.least} to {self.most}, found {len(value)} in it")
        items = tuple(self.kind.check(one, f"{where}[{number}]") for number, one in enumerate(value))
        if self.unique and len(set(items)) < len(items):
            twice = next(one for number, one in enumerate(items) if one in items[:number])
            raise MismatchError(f"{where}: has {quoted(twice)} twice")
        return items


@dataclass(frozen=True)
class Pair:
    """The lower and the upper end of a range, a list of two numbers."""

    kind: Kind = field(default_factory=Number)

    def check(self, value: Any, where: str) -> tuple[Any, Any]:
        low, high = Items(self.kind, 2, 2).check(value, where)
        if None not in (low, high) and low > high:
            raise MismatchError(f"{where}: expected the lower end first, found {low:g} before {high:g}")
        return low, high


@dataclass(frozen=True)
class Map:
    """An object whose keys are not known beforehand, of at least ``least`` items."""

    kind: Kind
    key: Kind = field(default_factory=Text)
    least: int = 0

    def check(self, value: Any, where: str) -> dict[str, Any]:
        found = _object(value, where)
        if len(found) < self.least:
            raise MismatchError(f"{where}: expected at least {self.least} in it, found {len(found)}")
        return {
            self.key.check(name, f"{where}, the key"): self.kind.check(one, _below(where, name))
            for name, one in found.items()
        }


@dataclass(frozen=True)
class Record:
    """An object with fields that must be there, and others that may be; further ones only if ``rest`` is a kind."""

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    rest: Kind | None = None

    def check(self, value: Any, where: str) -> dict[str, Any]:
        found = _object(value, where)
        for name in self.required:
            if name not in found:
                raise MismatchError(f"{_below(where, name)}: is missing")
        known = {**self.required, **self.optional}
        checked = {}
        for name, one in found.items():
            kind = known.get(name, self.rest)
            if kind is None:
                raise MismatchError(f"{_below(where, name)}: is an unknown field")
            checked[name] = kind.check(one, _below(where, name))
        return checked


@dataclass(frozen=True)
class Anything:
    """Any JSON value that is not nested deeper than 16 levels; its text has no control characters."""

    levels: int = _DEEPEST

    def check(self, value: Any, where: str) -> Any:
        if self.levels == 0:
            raise MismatchError(f"{where}: is nested too deep")
        inner = Anything(self.levels - 1)
        if isinstance(value, dict):
            return {
                _PRINTABLE.check(name, f"{where}, the key"): inner.check(one, _below(where, name))
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
    """The kinds of a dataclass' fields, from their types and from the ranges in their metadata (``options.option``).

    ``int`` is a whole number and ``float`` a number, both at least 0 unless the metadata says otherwise; a tuple of two
    floats is a range; a nested dataclass is a record whose fields are optional, since older files lack some.

    Args:
        kind: the dataclass.
        kinds: the kinds of some fields, instead of those that follow from their types.
        without: names of fields to leave out.
    """
    types = typing.get_type_hints(kind)
    chosen = [one for one in fields(kind) if one.name not in without]
    return {one.name: kinds.get(one.name) or _of_type(types[one.name], one.metadata) for one in chosen}


def _of_type(found: Any, metadata: Mapping[str, Any]) -> Kind:
    least, most = metadata.get("least"), metadata.get("most")
    if found is int:
        return Whole(int(least or 0), _LARGEST_WHOLE if most is None else int(most))
    if found is float:
        return Number(0 if least is None else least, math.inf if most is None else most)
    if is_dataclass(found):
        return Record({}, of_dataclass(typing.cast(type, found)))
    if typing.get_origin(found) is typing.Literal:
        return Choice(typing.get_args(found))
    simple: dict[Any, Kind] = {
        bool: Flag(),
        str: Text(),
        tuple[float, float]: Pair(),
    }
    return simple[found]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where or "the whole", "an object", value)
    return value


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and part.isprintable() and not set(part) & set("/\\")


def _below(where: str, name: str) -> str:
    shown = printable(name)
    shown = shown if len(shown) <= _QUOTED else f"{shown[:_QUOTED]}..."
    return f"{where}.{shown}" if where else shown


def _range(low: float, high: float) -> str:
    return f"from {low} on" if high in (math.inf, _LARGEST_WHOLE) else f"from {low} to {high}"


def _refuse(where: str, expected: str, value: Any) -> NoReturn:
    raise MismatchError(f"{where}: expected {expected}, found {quoted(value)}")


def quoted(value: Any) -> str:
    """A value as a message shows it: short, on one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        return "a larger number"
    shown = printable(repr(value))
    return shown if len(shown) <= _QUOTED else f"{shown[:_QUOTED]}..."
