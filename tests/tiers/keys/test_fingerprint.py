"""Keys found by fingerprint against their definition in ``json`` and hashlib, for every kind of request."""

from __future__ import annotations

import copy
import enum
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.seams import change_request_of_keys, known_keys
from tests.tiers.keys.test_canonical_json import Colour, Fraction, Level, Text, values
from tiercache import AgentCache
from tiercache.engine.memory.l1 import L1
from tiercache.options import L1Options
from tiercache.tiers.keys.fingerprint import fingerprint, fingerprint_of_request
from tiercache.tiers.keys.lookup import KeyLookup
from tiercache.tiers.llm import key as llm_key
from tiercache.tiers.tool import key as tool_key

LONG = "long " * 200
OTHER_LONG = "Long " * 200
WIRE = {
    "tool_choice": "toolChoice",
    "response_format": "responseFormat",
    "reasoning_effort": "reasoningEffort",
    "prompt_cache_key": "promptCacheKey",
}


def refusing(make: Callable[[], str]) -> str | None:
    """Return the result of ``make``, or None if it refuses."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError):
        return None


def digest(value: Any) -> str:
    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(item) for key, item in sorted(value.items())}
        return [ordered(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(ordered(value), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def llm_definition(params: Mapping[Any, Any]) -> str:
    """Return the llm key of ``params`` as the wire contract defines it."""
    hashed = {"model": params["model"], "messages": params["messages"], "temperature": 1, "top_p": 1}
    if not isinstance(params["model"], str):
        raise TypeError("model")
    for name, value in params.items():
        if value is None and name not in ("temperature", "top_p", "messages"):
            continue
        if not isinstance(name, str) or name in WIRE.values():
            raise TypeError("name")
        if name == "tools":
            if not isinstance(value, list | tuple):
                raise TypeError("tools")
            value = sorted(value, key=lambda t: (t.get("function") or {}).get("name") or t.get("name") or "")
        hashed[WIRE.get(name, name)] = value
    return f"n:llm:{digest(hashed)}"


def tool_definition(args: Any) -> str:
    return f"n:tool:t:{digest({} if args is None else args)}"


# One cache for all examples: a key of an earlier example could be found, and must not be.
CACHE = AgentCache.in_memory(name="n")

long_texts = st.sampled_from([LONG, "".join(["l", LONG[1:]]), OTHER_LONG, "é" * 600, "\ud800" * 600, Text(LONG)])
contents = st.one_of(
    values,
    long_texts,
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.one_of(long_texts, values)}), max_size=3),
    st.lists(st.fixed_dictionaries({"source": st.dictionaries(st.sampled_from("ab"), long_texts)}), max_size=2),
)
messages = st.one_of(
    values,
    st.lists(
        st.one_of(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": contents}),
            st.dictionaries(st.sampled_from(["role", "content", "name", Text("role")]), contents, max_size=3),
            contents,
        ),
        max_size=4,
    ),
)
places = st.dictionaries(
    st.one_of(
        st.sampled_from(["messages", "system", "input", "prompt", "tools", "seed", "temperature", "tool_choice"]),
        st.sampled_from([Text("seed"), Colour.RED, b"bytes", 1, None, ..., "toolChoice"]),
    ),
    st.one_of(messages, contents, st.just(...)),
    max_size=4,
)
requests = st.builds(
    lambda model, given, more: {"model": model, "messages": given, **more},
    st.sampled_from(["m", "m2", Text("m"), Colour.RED, 1]),
    messages,
    places,
)


def check_llm(request: Any) -> None:
    expected = refusing(lambda: llm_definition(request))
    cold = AgentCache.in_memory(name="n")
    for make in (cold.llm.key, cold.llm.key, CACHE.llm.key, CACHE.llm.key):
        assert refusing(lambda make=make: make(request).key) == expected
    if expected is None:
        assert known_keys(cold.llm).entry_count == 0


@settings(max_examples=600, deadline=None)
@given(requests)
@example({"model": "m", "messages": [], b"bytes": None, ...: None})
def test_key_of_a_request_is_the_key_of_its_definition_or_refused_as_there(request: dict[str, Any]) -> None:
    check_llm(request)
    check_llm(copy.deepcopy(request))


@settings(max_examples=1000, deadline=None)
@given(st.one_of(values, st.dictionaries(st.sampled_from("abc"), st.one_of(values, long_texts))))
def test_key_of_a_tool_call_is_the_key_of_its_definition_or_refused_as_there(args: Any) -> None:
    expected = refusing(lambda: tool_definition(args))
    for _ in range(2):
        assert refusing(lambda: CACHE.tool.key("t", args).key) == expected


NEAR = [
    [1, True, 1.0, "1", Level.HIGH, 3, "3"],
    [0, False, 0.0, -0.0, None, ""],
    [["x"], ("x",), "x", Text("x"), {"x": "x"}],
    [({"b": 1, "a": 2},), [{"b": 1, "a": 2}], [{"a": 2, "b": 1}]],
    [2**53, 2**53 + 1, float(2**53), 2**64, -(2**64), 1e16, 10**16, 1e-5, 5e-324],
    [0.5, Fraction(0.5), "0.5"],
    ["red", Colour.RED, ["red"]],
    ["\ud83d\ude00", "\U0001f600", "\ud83d"],
    [LONG, LONG[:-1], OTHER_LONG, Text(LONG), [LONG], (LONG,), {LONG: 1}, ..., b"x"],
    [[LONG, OTHER_LONG], [OTHER_LONG, LONG], [LONG + OTHER_LONG], [..., LONG], [LONG, ...]],
    [[{"text": LONG}], [{"text": LONG, "type": "text"}], [{"type": LONG}], [{"text": OTHER_LONG}]],
    [float("nan"), float("inf"), "NaN"],
    [{1: "a"}, {"1": "a"}, {True: "a"}, {None: "a"}, {1.0: "a"}],
]


@pytest.mark.parametrize("near", NEAR, ids=range(len(NEAR)))
@pytest.mark.parametrize("place", ["content", "message", "messages", "seed", "system", "input", "tools"])
def test_key_tells_requests_apart_that_nearly_agree(near: list[Any], place: str) -> None:
    def request(value: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        if place == "content":
            made["messages"][0]["content"] = value
        elif place == "message":
            made["messages"].append(value)
        else:
            made[place] = value
        return made

    for _ in range(2):
        for value in near:
            made = request(value)
            for _ in range(2):
                assert refusing(lambda made=made: CACHE.llm.key(made).key) == refusing(
                    lambda made=made: llm_definition(made)
                )


def test_key_differs_if_a_long_string_moves_to_another_place() -> None:
    def at(*place: Any) -> dict[str, Any]:
        request: Any = {"model": "m", "messages": [{"role": "user", "content": ""}] * 2, "prompt": "", "system": ""}
        request["messages"] = [dict(message) for message in request["messages"]]
        inner = request
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = LONG
        return request

    made = [at("prompt"), at("system"), at("messages", 0, "content"), at("messages", 1, "content"), at("user")]
    for request in [*made, *made]:
        assert CACHE.llm.key(request).key == llm_definition(request)


def test_key_of_a_request_changed_in_place_is_another_key() -> None:
    request: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": [{"text": LONG}]}], "tools": []}
    for change in (
        lambda: request["messages"][0]["content"].append({"text": LONG}),
        lambda: request["messages"][0]["content"][0].update(text=OTHER_LONG),
        lambda: request["messages"][0].update(role="system"),
        lambda: request["tools"].append({"name": "a", "inner": {"deep": [1]}}),
        lambda: request["tools"][0]["inner"]["deep"].append(2),
        lambda: request["messages"].clear(),
    ):
        for _ in range(2):
            assert CACHE.llm.key(request).key == llm_definition(request)
        change()
    assert CACHE.llm.key(request).key == llm_definition(request)


def test_key_is_found_for_equal_long_strings_that_are_different_objects() -> None:
    def request() -> dict[str, Any]:
        return {"model": "equal", "messages": [{"role": "user", "content": "".join([LONG[:5], LONG[5:]])}]}

    cache = AgentCache.in_memory(name="n")
    assert cache.llm.key(request()) is cache.llm.key(request())


SHORT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}
HUGE = {"model": "m", "messages": [{"role": "system", "content": "words " * 20_000}, {"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("request_", [SHORT, HUGE], ids=["short", "100 KB"])
async def test_l1_hit_neither_serialises_nor_hashes_the_request(
    request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: Any, **__: Any) -> Any:
        raise AssertionError("a request was serialised or hashed on a hit")

    async with AgentCache.in_memory() as cache:
        await cache.llm.store(copy.deepcopy(request_), "answer")
        await cache.tool.store("t", copy.deepcopy(request_), "result")
        for module in (llm_key, tool_key):
            change_request_of_keys(monkeypatch, module, unwanted, "canonical_json", "compact_json", "sha256")
        for _ in range(2):
            assert (await cache.llm.check(copy.deepcopy(request_))).source == "l1"
            assert (await cache.llm.get_or_load(copy.deepcopy(request_), unwanted)).source == "l1"
            assert (await cache.tool.check("t", copy.deepcopy(request_))).source == "l1"
            assert (await cache.tool.get_or_load("t", copy.deepcopy(request_), unwanted)).source == "l1"


@pytest.mark.parametrize("fingerprint_of", [fingerprint, fingerprint_of_request])
def test_fingerprint_refers_to_long_strings_without_a_copy(fingerprint_of: Callable[[Any], Any]) -> None:
    outline, _, texts = fingerprint_of(HUGE)
    assert texts[0] is HUGE["messages"][0]["content"]  # type: ignore[index]
    assert len(outline) < 200


class Named(str):
    """Equals "role" and is another str."""

    def __eq__(self, other: object) -> bool:
        return other == "role"

    def __hash__(self) -> int:
        return hash("role")


def test_key_tells_messages_apart_by_the_places_of_their_texts() -> None:
    def request_of(*messages: Any) -> dict[str, Any]:
        return {"model": "m", "messages": [*messages, {"role": "user", "content": LONG}]}

    block, other = {"type": "text", "text": "a"}, {"type": "text", "text": "b"}
    asked = [
        request_of({"role": "a", "content": "b"}),
        request_of({"role": "b", "content": "a"}),
        request_of({"role": "a", "name": "b"}),
        request_of({Named("else"): "a", "content": "b"}),
        request_of({"role": "a"}, {"content": "b"}),
        request_of({"role": "a", "content": "b", "name": "c"}),
        request_of({"role": "a", "content": ["b"]}),
        request_of({"role": "a", "content": [block, other]}),
        request_of({"role": "a", "content": [other, block]}),
        request_of({"role": "a", "content": [block, {"type": "b", "text": "text"}]}),
        request_of({"role": "a", "content": [block, other, "b"]}),
        request_of({"role": "a", "content": (block, other)}),
        request_of("a", "b"),
        request_of(["a", "b"]),
    ]
    cache = AgentCache.in_memory(name="n")
    for request in (*asked, *asked[::-1]):
        assert refusing(lambda request=request: cache.llm.key(request).key) == refusing(
            lambda request=request: llm_definition(request)
        )
    other_way_round = request_of({"content": "b", "role": "a"})
    assert cache.llm.key(other_way_round) == cache.llm.key(asked[0])


def test_known_keys_refer_to_no_object_of_the_caller_but_strings() -> None:
    cache = AgentCache.in_memory()
    block, message, tools = {"text": LONG}, {"role": "user", "content": "Hi"}, [{"name": "a"}]
    content = [block]
    request: dict[str, Any] = {
        "model": "m",
        "messages": [message, {"role": "user", "content": content}],
        "tools": tools,
    }
    mutable = [request, request["messages"], message, content, block, tools, tools[0]]
    before = [sys.getrefcount(each) for each in mutable]
    for _ in range(3):
        cache.llm.key(request)
        cache.tool.key("t", request)
    assert [sys.getrefcount(each) for each in mutable] == before


def test_key_is_not_remembered_for_a_request_that_another_thread_changes_while_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = AgentCache.in_memory(name="n")
    request = copy.deepcopy(SHORT)

    def change() -> None:
        request["messages"][0]["content"] = "Bye"  # type: ignore[index]

    change_request_of_keys(monkeypatch, llm_key, change, "canonical_json")
    cache.llm.key(request)
    monkeypatch.undo()
    assert cache.llm.key(copy.deepcopy(SHORT)).key == llm_definition(SHORT)


class _Member(enum.Enum):
    A = "a"


@pytest.mark.parametrize(
    "value", [b"x", {"a": {1}}, [...], 1j, {b"x": None}, {...: None}, Text("x"), {"a": Colour.RED}, _Member.A, object()]
)
@pytest.mark.parametrize("fingerprint_of", [fingerprint, fingerprint_of_request])
def test_key_lookup_remembers_no_request_of_other_than_exact_types(
    value: Any, fingerprint_of: Callable[[Any], Any]
) -> None:
    lookup: KeyLookup[Any] = KeyLookup(L1(L1Options(max_entries=10, max_bytes=10_000)), fingerprint_of, lambda key: 0)
    for request in (value, {"model": "m", "messages": [], "x": value}, {"system": LONG * 20, "x": value}):
        assert lookup.make(request, fingerprint_of(request), lambda value, is_exact: is_exact) is False
    assert lookup.known.entry_count == 0
    assert lookup.make(SHORT, fingerprint_of(SHORT), lambda value, is_exact: is_exact) is True
    assert lookup.known.entry_count == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a class written in Python has a buffer from 3.12 on")
def test_key_tells_numbers_and_texts_with_equal_buffers_apart() -> None:
    class BufferText(str):
        __slots__ = ()

        def __buffer__(self, flags: int) -> memoryview:
            return memoryview(b"same")

    class BufferNumber(float):
        def __buffer__(self, flags: int) -> memoryview:
            return memoryview(b"same")

    for _ in range(2):
        for value in (BufferText("a"), BufferNumber(1.5), BufferText("b")):
            assert CACHE.llm.key({**SHORT, "seed": value}).key == llm_definition({**SHORT, "seed": value})
            assert CACHE.tool.key("t", [value]).key == tool_definition([value])
