"""The key of the input of a node: equal inputs have one key, all others have different keys."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel, PrivateAttr

from tiercache import UsageError
from tiercache.adapters.langgraph import node_key


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Text(str):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None


@dataclasses.dataclass
class Other:
    x: Any
    y: Any = None


class Pair(NamedTuple):
    a: Any
    b: Any


class Model(BaseModel):
    x: Any = None
    y: Any = None
    _hidden: Any = PrivateAttr(default=None)

    def hide(self, value: Any) -> Model:
        self._hidden = value
        return self


DIFFERENT: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**70, 10**5000, 0.0, -0.0, 1.0, float("inf"), 1j, "", "1", b"1", bytearray(b"1")),
    *([], [1], [[1]], [1, 2], [2, 1], (), (1,), {1}, {1, 2}, frozenset({1}), {}, {1: 2}, {"1": 2}, {2: 1}, {1: [2]}),
    *({"a": {"b": 1}}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": None}, [{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}, {}]),
    *(deque([1]), deque([1], maxlen=3), OrderedDict(a=1), Color.RED, Color.BLUE, Text("1"), "\ud800"),
    *(Point(1), Point(1, 2), Point(2, 1), Other(1), Pair(1, 2), Model(x=1), Model(y=1), Model(x=1, y=2)),
    *(date(2020, 1, 1), datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC), time(1), timedelta(1), timedelta(0, 1)),
    *(Decimal("1"), Decimal("1.0"), UUID(int=1), PurePosixPath("1"), PurePosixPath("a/b")),
    *(HumanMessage("1"), AIMessage("1"), HumanMessage("1", id="a"), HumanMessage("1", name="a"), HumanMessage("2")),
    *(Document("1"), Document("1", metadata={"a": 1}), ["ab", "c"], ["a", "bc"], {"ab": "c"}, {"a": "bc"}),
]


def test_node_key_differs_for_different_inputs() -> None:
    keys = [node_key(value) for value in DIFFERENT]
    keys += [node_key(), node_key(1, 2), node_key(1, a=2), node_key(a=1), node_key({"a": 1}, a=1)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ({1: "x", "1": "y"}, {"1": "y", 1: "x"}),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        (Model(x={"a": 1, "b": 2}), Model.model_validate({"y": None, "x": {"b": 2, "a": 1}})),
        (
            [HumanMessage("x", additional_kwargs={"a": 1, "b": 2})],
            [HumanMessage("x", additional_kwargs={"b": 2, "a": 1})],
        ),
        (Point({"a": 1, "b": 2}), Point({"b": 2, "a": 1})),
        ((shared := [1], shared), ([1], [1])),
    ],
)
def test_node_key_is_the_same_for_equal_inputs(one: Any, other: Any) -> None:
    assert node_key(one) == node_key(other)


def test_node_key_is_the_same_whether_a_cached_property_was_computed() -> None:
    message, other = AIMessage("x"), AIMessage("x")
    message.__dict__["computed"] = 1
    assert node_key(message) == node_key(other)


def test_node_key_counts_private_attributes_of_a_model() -> None:
    assert node_key(Model(x=1).hide(1)) != node_key(Model(x=1))


def test_node_key_is_the_same_in_every_process() -> None:
    program = (
        "from langchain_core.messages import HumanMessage\n"
        "from tiercache.adapters.langgraph import node_key\n"
        "print(node_key({'s': {'a', 'b', 'c'}, 'm': [HumanMessage('x', id='1')], 'n': None}, x=1.5))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "LANGSMITH_TRACING": "false"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert keys == {node_key({"n": None, "m": [HumanMessage("x", id="1")], "s": {"c", "b", "a"}}, x=1.5) + "\n"}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), "the input: a object"),
        ({"a": [1, object()]}, r"the input\['a'\]\[1\]: a object"),
        (lambda: None, "the input: a function"),
        (Point(Model(x=object())), r"the input\.x\.x: a object"),
        ({object(): 1}, "a key of the input: a object"),
        ({"a": {object()}}, r"an item of the input\['a'\]: a object"),
        (Point, "the input: a type"),
        (iter([1]), "the input: a list_iterator"),
    ],
)
def test_node_key_refuses_an_input_without_a_canonical_form(value: Any, place: str) -> None:
    with pytest.raises(UsageError, match=place):
        node_key(value)


def test_node_key_refuses_an_input_that_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match="nested deeper than 100 levels"):
        node_key(value)
