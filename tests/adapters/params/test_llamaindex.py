"""prepare_params of LlamaIndex: messages as dicts and as ChatMessage objects, tools, options."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from typing import Any, Final

import pytest
from betterdb_agent_cache.adapters.llamaindex import prepare_params as betterdb_params
from betterdb_agent_cache.utils import llm_cache_hash

from tests.adapters.params.contents import HI, PNG, image, text, user
from tiercache import AgentCache, UsageError
from tiercache.adapters.llamaindex import LlamaIndexPrepareOptions, prepare_params

CACHE: Final = AgentCache.in_memory()


class Metadata:
    """The metadata of a tool, as LlamaIndex makes it."""

    def __init__(self, name: str, description: str, schema: dict[str, Any]) -> None:
        self.name = name
        self.description = description
        self._schema = schema

    def get_parameters_dict(self) -> dict[str, Any]:
        return self._schema


class Tool:
    def __init__(self, *arguments: Any) -> None:
        self.metadata = Metadata(*arguments)


def calling(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "options": {"tool_call": list(calls), **fields}}


def result(of: Any = "sunny", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "options": {"tool_result": {"id": "c1", "result": of, **fields}}}


def call(args: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "name": "f", "input": args, **fields}


def data(kind: str, of: Any = "AAAA", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "data": of, **fields}


# (messages, options) of which betterdb ignores and merges nothing
SHARED: Final[list[tuple[list[Any], dict[str, Any]]]] = [
    ([HI], {}),
    ([HI, HI], {}),
    ([{"role": "system", "content": "a"}, HI], {}),
    ([{"role": "tool", "content": "a"}, HI], {}),
    ([HI, {"role": "assistant", "content": "yes"}], {}),
    ([user(text("a"), text("b"))], {}),
    ([user(image(PNG))], {}),
    ([user(image("https://a.example/1.png"))], {}),
    ([user(data("file"))], {}),
    ([user(data("file", mime_type="application/pdf"))], {}),
    ([user(data("audio", mime_type="audio/wav"))], {}),
    ([user(data("image", mime_type="image/png"))], {}),
    ([user(data("image"))], {}),
    ([HI, calling(call({}))], {}),
    ([HI, calling(call({"a": 1}))], {}),
    ([HI, calling(call({"a": 1}, name="g"))], {}),
    ([HI, calling(call({}), call({}, id="c2"))], {}),
    ([HI, result()], {}),
    ([HI, result("rainy")], {}),
    ([HI], {"temperature": 0.5}),
    ([HI], {"temperature": 0, "top_p": 0.5}),
    ([HI], {"max_tokens": 5}),
    ([HI], {"tools": [{"metadata": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]}),
    ([HI], {"tools": [{"metadata": {"name": "f", "description": "d", "parameters": {}}}]}),
    ([HI], {"tools": [{"name": "f", "description": "d"}]}),
    ([HI], {"tools": [{"name": "g", "description": "d"}]}),
]
# (messages, options) of which it ignores or merges something
SAFE: Final[list[tuple[list[Any], dict[str, Any]]]] = [
    ([{"role": "developer", "content": "a"}, HI], {}),
    ([{"role": "memory", "content": "a"}, HI], {}),
    ([user(image("https://a.example/1.png", detail="low"))], {}),
    ([user(text("hi"), {"type": "video", "data": "AAAA"})], {}),
    ([user(text("hi"), {"type": "video", "data": "AAAB"})], {}),
    ([user(data("image", mime_type="image/*"))], {}),
    ([user(data("image", b"a"))], {}),
    ([user(data("image", b"b"))], {}),
    ([user(data("file", filename="a.pdf"))], {}),
    ([HI, calling(call("nonsense"))], {}),
    ([HI, calling(call({"__raw": "nonsense"}, kind="x"))], {}),
    ([HI, calling(call({}), kind="x")], {}),
    ([HI, result(isError=True)], {}),
    ([HI, {**result(), "content": "sunny"}], {}),
    ([HI, {**result(), "role": "tool"}], {}),
    ([HI, result({"weather": "sunny"})], {}),
    ([HI, {"role": "user", "content": []}], {}),
    ([HI, {"role": "user", "content": "a", "name": "ann"}], {}),
    ([HI], {"parameters": {"seed": 5, "stop": ["a"]}}),
    ([HI], {"parameters": {"seed": 6}}),
    ([HI], {"tools": [Tool("f", "e", {"type": "object"})]}),
    ([HI], {"tools": [Tool("f", "e", {"type": "object", "required": ["a"]})]}),
    ([HI], {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ([HI], {"tools": [{"type": "function", "function": {"name": "g"}}]}),
    ([HI], {"tools": [{"metadata": {"name": "f", "strict": True}}]}),
    ([HI], {"tools": [{"metadata": {"name": "f"}, "kind": "x"}]}),
]


async def key_of(messages: Any, **options: Any) -> str:
    prepared = await prepare_params(messages, **{"model": "m", **options})
    return str(CACHE.llm.key(prepared)).rpartition(":")[2]


async def test_llamaindex_params_have_the_key_of_betterdb_where_it_ignores_nothing() -> None:
    for messages, options in SHARED:
        expected = llm_cache_hash(await betterdb_params(messages, model="m", **options))
        assert await key_of(messages, **options) == expected, (messages, options)


async def test_llamaindex_params_of_different_chats_never_share_a_key() -> None:
    made = [(await key_of(messages, **options), messages, options) for messages, options in [*SHARED, *SAFE]]
    for one, other in combinations(made, 2):
        assert one[0] != other[0], (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([HI], [{"content": "hi"}]),
        ([HI], [user(text("hi"))]),
        ([HI], (HI,)),
        ([HI, calling(call({"a": 1}))], [HI, calling(call('{"a": 1}'))]),
        ([HI, calling(call({}))], [HI, {"role": "assistant", "options": {"tool_call": call({})}}]),
    ],
)
async def test_llamaindex_params_of_two_forms_of_a_chat_share_the_key(one: Any, other: Any) -> None:
    assert await key_of(one) == await key_of(other)


async def test_llamaindex_params_take_options_as_an_object_or_as_keywords() -> None:
    options = LlamaIndexPrepareOptions(model="m", temperature=0.5, tools=[{"name": "f"}])
    assert await prepare_params([HI], options) == await prepare_params(
        [HI], model="m", temperature=0.5, tools=[{"name": "f"}]
    )


@pytest.mark.parametrize(
    ("messages", "options", "reason"),
    [
        ([HI], {}, "model is missing"),
        ([HI], {"model": ""}, "model is missing"),
        ([HI], {"model": 5}, "params.model must be a str, not int"),
        ("hi", {"model": "m"}, "messages must be a list, not str"),
        (["hi"], {"model": "m"}, r"messages\[0\] must be a mapping, not str"),
        ([{"role": "user", "content": 5}], {"model": "m"}, r"messages\[0\].content must be a list, not int"),
        ([{"role": "user", "options": 5}], {"model": "m"}, r"messages\[0\].options must be a mapping, not int"),
        ([calling(5)], {"model": "m"}, r"options.tool_call\[0\] must be a mapping, not int"),
        ([HI], {"model": "m", "modle": "m"}, "no such option: .*modle"),
        ([HI], {"model": "m", "tools": [5]}, r"tools\[0\] must have metadata with a name, or be a mapping, not int"),
        ([HI], {"model": "m", "parameters": {"top_p": 1}}, "parameters has 'top_p', which is an option of its own"),
        ([HI], {"opts": LlamaIndexPrepareOptions(model="m"), "model": "m"}, "opts and model are both given"),
        ([HI], {"opts": 5}, "opts must be LlamaIndexPrepareOptions, not int"),
    ],
)
async def test_llamaindex_params_refuse_a_wrong_part_and_name_it(messages: Any, options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await prepare_params(messages, **options)


def test_llamaindex_params_need_no_llamaindex() -> None:
    program = (
        "import sys; sys.modules['llama_index'] = None; import tiercache.adapters.llamaindex as adapter;"
        "assert adapter.prepare_params is adapter.params.prepare_params"
    )
    subprocess.run([sys.executable, "-c", program], timeout=50, check=True)
