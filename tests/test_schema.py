import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.json_file import LARGEST_FILE, read_json
from brainseg_tf.schema import (
    Anything,
    Choice,
    Digest,
    Flag,
    Integer,
    Items,
    Map,
    MismatchError,
    Name,
    Nullable,
    Number,
    Pair,
    Record,
    RelativePath,
    Text,
    of_dataclass,
)

NAN = float("nan")
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Integer(16, 1024), 16),
        (Integer(16, 1024), 1024),
        (Number(0, 1), 1),
        (Number(-INFINITE), -3.5),
        (Flag(), False),
        (Text(), "Dice, 95 %"),
        (Text(0), ""),
        (Name(), "my run é"),
        (Name(), ".hidden"),
        (RelativePath(), "variables/variables.index"),
        (Digest(), "0123456789abcdef" * 4),
        (Choice(("a", "b")), "b"),
        (Nullable(Integer()), None),
        (Pair(), (1, 1)),
        (Pair(Nullable(Number())), (None, None)),
        (Items(Text(), unique=True), ("a", "b")),
        (Map(Number()), {"a": 1.5}),
        (Record({"a": Integer()}, {"b": Integer()}), {"a": 1}),
        (Record({"a": Integer()}, rest=Text()), {"a": 1, "z": "more"}),
        (Anything(), {"a": (None, True, 1, {"b": "c"})}),
    ],
)
def test_valid_values_are_returned(kind, value):
    assert kind.check(json.loads(json.dumps(value)), "x") == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Integer(16, 1024), "abc", "x: expected an integer from 16 to 1024, found 'abc'"),
        (Integer(16, 1024), 100000, "x: expected an integer from 16 to 1024, found 100000"),
        (Integer(16, 1024), 15, "x: expected an integer from 16 to 1024, found 15"),
        (Integer(16, 1024), 128.0, "x: expected an integer from 16 to 1024, found 128.0"),
        (Integer(16, 1024), True, "x: expected an integer from 16 to 1024, found true"),
        (Integer(1), 0, "x: expected an integer of at least 1, found 0"),
        (Integer(), 10**400, "x: expected an integer of at least 0, found a larger number"),
        (Number(0, 1), 1.5, "x: expected a number from 0 to 1, found 1.5"),
        (Number(0, 1), NAN, "x: expected a number from 0 to 1, found nan"),
        (Number(), INFINITE, "x: expected a number of at least 0, found inf"),
        (Number(-INFINITE), -INFINITE, "x: expected a finite number, found -inf"),
        (Number(), None, "x: expected a number of at least 0, found null"),
        (Flag(), 1, "x: expected true or false, found 1"),
        (Text(), "", "x: expected one line of text, at most 255 characters, found ''"),
        (Text(), "a\nb", r"x: expected one line of text, at most 255 characters, found 'a\nb'"),
        (Name(), "../../etc/passwd", "x: expected a name (no path, no control characters), found '../../etc/passwd'"),
        (Name(), "..", "x: expected a name (no path, no control characters), found '..'"),
        (Name(), "a\\b", "x: expected a name"),
        (Name(), " ", "x: expected a name"),
        (Name(), "é" * 128, "x: expected a name"),
        (Name(), "\ud800", "x: expected a name"),
        (RelativePath(), "/etc/passwd", "x: expected a relative path, found '/etc/passwd'"),
        (RelativePath(), "a/../../b", "x: expected a relative path, found 'a/../../b'"),
        (Digest(), "F" * 64, "x: expected a SHA-256"),
        (Choice(("a", "b")), "c", "x: expected one of a, b, found 'c'"),
        (Choice(("a", "b")), ["a"], "x: expected one of a, b, found a list"),
        (Pair(), [2, 1], "x: expected the lower limit first, found 2 before 1"),
        (Pair(), [1], "x: expected a list of 2 to 2 items, found 1"),
        (Items(Integer()), {"a": 1}, "x: expected a list, found an object"),
        (Items(Integer()), [1, "b"], "x[1]: expected an integer of at least 0, found 'b'"),
        (Items(Text(), unique=True), ["a", "b", "a"], "x: contains 'a' twice"),
        (Map(Number(), least=1), {}, "x: expected at least 1 field(s), found 0"),
        (Map(Number()), {"a": {"b": 1}}, "x.a: expected a number of at least 0, found an object"),
        (Map(Number()), {"a\n": 1}, "x, the key: expected one line of text"),
        (Record({"a": Integer()}), {}, "x.a: is missing"),
        (Record({}), {"a": 1}, "x.a: is an unknown field"),
        (Record({"a": Record({"b": Integer()})}), {"a": {"b": "c"}}, "x.a.b: expected an integer of at least 0"),
        (Record({}), [], "x: expected an object, found a list"),
        (Anything(), [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]], "is nested too deeply"),
        (Anything(), {"a": [NAN]}, "x.a[0]: expected a finite number, found nan"),
    ],
)
def test_invalid_values_are_refused_and_named(kind, value, message):
    with pytest.raises(MismatchError) as caught:
        kind.check(value, "x")
    assert message in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


@dataclass
class Inner:
    share: float = 0.5
    radius: tuple[float, float] = (1.0, 2.0)


@dataclass
class Outer:
    count: int = 1
    kind: Literal["a", "b"] = "a"
    on: bool = True
    inner: Inner = field(default_factory=Inner)


def test_a_dataclass_is_a_schema():
    kinds = of_dataclass(Outer, {"count": Integer(1, 5)}, without=("on",))
    assert kinds["count"] == Integer(1, 5) and "on" not in kinds
    record = Record({}, kinds)
    complete = {"count": 2, "kind": "b", "inner": {"share": 0, "radius": [1, 2.5]}}
    assert record.check(complete, "") == complete | {"inner": {"share": 0, "radius": (1, 2.5)}}
    # Files of older versions do not have all fields.
    assert record.check({"inner": {}}, "") == {"inner": {}}
    for value, message in (
        ({"kind": "c"}, "kind: expected one of a, b"),
        ({"inner": {"radius": [3, 1]}}, "inner.radius: expected the lower limit first"),
        ({"inner": {"share": -0.5}}, "inner.share: expected a number of at least 0"),
    ):
        with pytest.raises(MismatchError, match=message):
            record.check(value, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON in line 1"),
        (b'{"a":\n1', "not JSON in line 2"),
        (b'{"a": 1} more', "not JSON in line 1"),
        (b'{"a": \xff}', "not UTF-8 at byte 6"),
        (b"\x00\x01\x02", "not JSON in line 1"),
        (b'{"a": NaN}', "a: expected an integer of at least 3, found nan"),
        (b'{"a": -Infinity}', "a: expected an integer of at least 3, found -inf"),
        (b'{"a": 1e999}', "a: expected an integer"),
        (b'{"a": 1, "a": 2}', "it contains the field 'a' twice"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it contains a number of 10000 digits"),
        (b"[]", "top level: expected an object, found a list"),
        (b'{"a": 2}', "a: expected an integer of at least 3, found 2"),
    ],
)
def test_a_damaged_file_gives_a_message_of_one_line(tmp_path, content, reason):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(file, Record({"a": Integer(3)}), what="a thing", remedy="make it again")
    assert str(caught.value).startswith(f"{file}: is not a thing ({reason}")
    assert str(caught.value).endswith("); make it again")
    assert str(caught.value).isprintable()


def test_missing_special_and_large_files_are_refused(tmp_path):
    def read(file):
        return read_json(file, Record({}), what="a thing", remedy="make it again")

    with pytest.raises(InputError, match=r"a thing \(no such file\); make it again"):
        read(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(InputError, match="its size of 16 MB exceeds the limit"):
        read(tmp_path / "large.json")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read(tmp_path / "bom.json") == {}
