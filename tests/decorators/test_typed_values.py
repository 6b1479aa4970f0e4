"""Typed JSON: values of other types or contents differ, and the same value is the same in every process."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache import UsageError
from tiercache.decorators.typed_values import typed_json


class Color(enum.Enum):
    RED = "r"
    ALSO_RED = "R"


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass
class Place:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    a: Any
    b: Any


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: Any


class Record(msgspec.Struct):
    x: Any


class Text(str):
    """A text with contents of its own."""


@dataclass
class Items(list[Any]):
    x: Any = 0


@dataclass
class Unset:
    x: Any = field(init=False)


# Each has other typed JSON than all others.
DIFFERENT: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**70, 0.0, -0.0, 1.0, float("inf"), float("nan"), 1j, 1 + 0j, "1", "", "None"),
    *(b"1", b"", bytearray(b"1"), (1,), [1], (), [], {}, set(), frozenset(), {1}, frozenset({1}), range(1), range(2)),
    *({1: 2}, {"1": 2}, {1: "2"}, {(1, 2): 3}, [[1]], [1, 1], [(1,)], {"int": "0x1"}, {"tuple": []}, [None], "null"),
    *(Color.RED, Color.ALSO_RED, "r", Level.LOW, Access.READ, Access.READ | Access.WRITE, Access(0)),
    *(
        Point(1),
        Place(1),
        Point(1.0),
        Point(1, 2),
        Pair(1, 2),
        (1, 2),
        Record(1),
        Record("1"),
        Model(x=1),
        Model(x=True),
    ),
    *(
        Model(x=1, y=2),
        {"x": 1},
        Point(Point(1)),
        Decimal(1),
        Decimal("1.0"),
        Decimal("NaN"),
        Fraction(1),
        Fraction(1, 2),
    ),
    *(UUID(int=1), str(UUID(int=1)), PurePosixPath("a"), "a", date(2026, 1, 1), datetime(2026, 1, 1), "2026-01-01"),
    *(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "Z"))),
    *(datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Sofia"))),
    *(
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 1, 1, fold=1),
        time(1),
        time(1, fold=1),
    ),
    *(timedelta(1), timedelta(0, 1), 86400, timedelta(0), UTC, timezone(timedelta(hours=1)), ZoneInfo("Europe/Sofia")),
]


def test_values_of_other_types_and_contents_differ() -> None:
    found: dict[bytes, Any] = {}
    for value in DIFFERENT:
        data = typed_json({"a": value})
        assert data not in found, f"{value!r} and {found[data]!r}"
        found[data] = value


def test_equal_records_sets_and_dicts_are_equal_in_any_order() -> None:
    for one, other in [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2, 30}, {30, 2, 1}),
        (Point(1), Point(1, 0)),
        (Model(x=1), Model(x=1)),
        ([Color.RED, {"b": Pair(1, 2)}], [Color.RED, {"b": Pair(1, 2)}]),
    ]:
        assert typed_json({"a": one}) == typed_json({"a": other})
    assert typed_json({"a": 1, "b": 2}) == typed_json({"b": 2, "a": 1})
    assert typed_json({"a": 1}) != typed_json({"b": 1})


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3), max_leaves=8
)


def exact(value: Any) -> Any:
    """Return a form of ``value`` whose equality is that of types and contents."""
    kind = type(value)
    if kind is list or kind is tuple:
        return (kind.__name__, [exact(item) for item in value])
    if kind is frozenset:
        return (kind.__name__, sorted((exact(item) for item in value), key=repr))
    if kind is dict:
        return (kind.__name__, sorted(((exact(key), exact(item)) for key, item in value.items()), key=repr))
    return (kind.__name__, repr(value))


@given(VALUES, VALUES)
def test_typed_json_is_equal_only_for_equal_values_of_the_same_types(one: Any, other: Any) -> None:
    assert (typed_json({"a": one}) == typed_json({"a": other})) == (exact(one) == exact(other))


PROGRAM = """
from tests.decorators.test_typed_values import DIFFERENT
from tiercache.decorators.typed_values import typed_json
import hashlib
sets = [{"a", "b", "c", 1, None, (1, "x")}, {"k" + str(i): {str(j) for j in range(9)} for i in range(9)}]
print(hashlib.sha256(b"".join(typed_json({"a": value}) for value in [*DIFFERENT, *sets])).hexdigest())
"""


def test_typed_json_is_the_same_in_every_process() -> None:
    seen = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "value",
    [object(), len, Text("a"), Items(), Unset(), memoryview(b""), Model, ZoneInfo.from_file, iter(())],
    ids=lambda value: type(value).__name__,
)
def test_value_of_an_unknown_type_is_refused_with_its_name_at_any_depth(value: Any) -> None:
    for given_value in (value, [{"a": (value,)}], Point(value)):
        with pytest.raises(UsageError, match=r"argument 'question' has a value of type \w+\.\w+"):
            typed_json({"question": given_value})


def test_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match="'question' is nested more than 100 levels deep"):
        typed_json({"question": value})


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match="'question' has text that is not Unicode"):
        typed_json({"question": ["\ud800"]})
