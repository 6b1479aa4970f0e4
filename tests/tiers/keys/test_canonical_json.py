"""canonical_json and compact_json against their definition in ``json``, for every kind of value that callers pass."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.seams import without_exact_json_check
from tiercache import UsageError
from tiercache.tiers.keys.canonical_json import canonical_json, compact_json
from tiercache.tiers.keys.exact_json import MAX_DEPTH


def definition(value: Any, *, sort: bool) -> bytes:
    """Return the JSON of the wire contract, written as the contract defines it."""

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(item) for key, item in sorted(value.items())}
        if isinstance(value, list):
            return [ordered(item) for item in value]
        return value

    return json.dumps(ordered(value) if sort else value, separators=(",", ":"), ensure_ascii=False).encode()


class Colour(str, enum.Enum):  # noqa: UP042 - StrEnum has a __str__ of its own
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Fraction(float):
    def __repr__(self) -> str:
        return "a fraction"


@dataclasses.dataclass
class Point:
    x: int


def refuses(write: Any, value: Any) -> bool:
    try:
        write(value)
    except (TypeError, ValueError, RecursionError):
        return True
    return False


numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, True, False, Level.HIGH]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([-0.0, 0.0, 1.0, 1e-4, 9.999e-5, 1e15, 1e16, 1e17, 5e-324, 1.7976931348623157e308, Fraction(0.5)]),
)
texts = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "L"])),
    st.sampled_from([Colour.RED, Text("é"), "\u2028\x7f\x00", "\U0001d4b3", "\ud800", "\ufeff"]),
)
refused = st.sampled_from(
    [
        {1},
        b"bytes",
        object(),
        Point(1),
        datetime.date(2026, 1, 1),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        uuid.UUID(int=1),
        1j,
    ]
)
leaves = st.one_of(st.none(), numbers, texts, refused)
keys = st.one_of(texts, st.integers(), st.booleans(), st.none(), st.floats())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


def has_equal_keys(data: bytes) -> bool:
    """Return whether an object in the JSON has two members with the same key: JSON would lose one of them."""
    found = False

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({key for key, _ in members}) < len(members)

    json.loads(data, object_pairs_hook=look)
    return found


@settings(max_examples=3000, deadline=None)
@given(values)
@example({1: "a", "1": "b"})
@example([{None: 1, "null": ({True: 1, "true": 2},)}])
@example(({"b": 1, "a": 2}, 3))
@example({10: "a", 9: "b", 1: "c"})
@example([{"b": [({"d": 1, "c": 2},)], "a": 1e16}])
@example({"a": 1, 2: 3})
@example({"a": Colour.RED, Colour.RED: Level.HIGH})
@example([Point(1)])
@example({"\ud800": 1})
def test_canonical_json_writes_the_bytes_of_json_or_refuses_as_json_does(value: Any) -> None:
    for write, sort in ((canonical_json, True), (compact_json, False)):
        if refuses(lambda v, sort=sort: definition(v, sort=sort), value) or has_equal_keys(
            definition(value, sort=False)
        ):
            with pytest.raises(UsageError, match="params"):
                write(value, "params")
        else:
            assert write(value, "params") == definition(value, sort=sort)


@pytest.mark.parametrize(
    "value", [1e-5, float("nan"), float("inf"), ({"b": 1, "a": 2},), datetime.date(2026, 1, 1), Point(1)]
)
def test_orjson_writes_other_bytes_without_the_check_for_exact_json(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exact_json_check(monkeypatch)
    unguarded = canonical_json([value], "x")
    monkeypatch.undo()
    with contextlib.suppress(UsageError):  # A refusal also differs from the bytes of orjson.
        assert unguarded != canonical_json([value], "x")


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: (v,)], ids=["list", "dict", "tuple"])
@pytest.mark.parametrize("write", [canonical_json, compact_json])
def test_canonical_json_refuses_a_value_nested_one_level_deeper_than_the_limit(wrap: Any, write: Any) -> None:
    deepest = nested(MAX_DEPTH, wrap)
    assert write(deepest, "x") == definition(deepest, sort=False)
    for depth in (MAX_DEPTH + 1, 2000, 100_000):
        with pytest.raises(UsageError, match="deeper than"):
            write(nested(depth, wrap), "x")


def test_canonical_json_refuses_a_list_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="contains itself"):
        canonical_json(loop, "x")
