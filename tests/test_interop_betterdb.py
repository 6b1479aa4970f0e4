"""Interoperability: betterdb-agent-cache and tiercache share one Valkey and one name, and read each other's entries.

The test environments have version 0.12 of the library. The environment ``betterdb06`` of tox runs this file with 0.6,
which writes the same bytes.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey
from betterdb_agent_cache.types import LlmStoreOptions, ToolPolicy, ToolStoreOptions

from tests.requests import HELLO, asking
from tests.support import MakeCache, entry_keys
from tests.tiers.llm.exchanges import LONG, codec, exchange_of
from tiercache import AgentCache
from tiercache import ToolPolicy as OurToolPolicy
from tiercache.tiers.values.compression import Compression

REQUESTS: list[dict[str, Any]] = [
    HELLO,
    asking("é 👍🏽 \u2028", temperature=0.7, max_tokens=5, stop=["\n"], seed=0),
    {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [{"type": "function", "function": {"name": "b"}}, {"type": "function", "function": {"name": "a"}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "high",
        "prompt_cache_key": "k",
    },
]


# ``tox`` names the version that it has installed; another one would leave a version untested.
SERIES = os.environ.get("BETTERDB_SERIES", "0.12")


def test_interop_runs_with_the_version_of_its_environment() -> None:
    assert version("betterdb-agent-cache").startswith(f"{SERIES}.")


@pytest.fixture
def ours(make_cache: MakeCache) -> AgentCache:
    return make_cache(name="test")


@pytest.mark.parametrize("params", REQUESTS)
async def test_interop_reads_llm_entry_of_betterdb(peer: betterdb.AgentCache, ours: AgentCache, params: Any) -> None:
    key = await peer.llm.store(params, "from the peer", LlmStoreOptions(tokens={"input": 3, "output": 4}, ttl=60))
    result = await ours.llm.check(params)
    assert (result.source, result.response, result.key) == ("l2", "from the peer", key)
    assert result.tokens == {"input": 3, "output": 4}
    assert result.cost is not None
    assert result.ttl is not None
    assert 58 < result.ttl <= 60


@pytest.mark.parametrize("params", REQUESTS)
async def test_interop_llm_entry_is_read_by_betterdb(peer: betterdb.AgentCache, ours: AgentCache, params: Any) -> None:
    key = await ours.llm.store(params, "from us", tokens={"input": 3, "output": 4})
    result = await peer.llm.check(params)
    assert (result.hit, result.response, result.key) == (True, "from us", key)
    if hasattr(result, "input_tokens"):  # Results of 0.6 have no token counts.
        assert (result.input_tokens, result.output_tokens) == (3, 4)


async def test_interop_content_blocks_pass_both_ways(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    blocks: Any = [{"type": "text", "text": "Hi "}, {"type": "tool_call", "id": "1", "name": "n", "args": {"b": 1}}]
    await peer.llm.store_multipart(HELLO, blocks)
    assert (await ours.llm.check(HELLO)).content_blocks == blocks
    await ours.llm.store_multipart(asking("x"), blocks)
    theirs = await peer.llm.check(asking("x"))
    assert (theirs.response, theirs.content_blocks) == ("Hi ", blocks)


async def test_interop_invalidates_entries_of_both(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.store(HELLO, "x")
    await ours.llm.store(asking("y"), "y")
    assert await ours.llm.invalidate_by_model("gpt-4o") == 2
    await ours.llm.store(HELLO, "x")
    assert await peer.llm.clear() == 1


@pytest.mark.parametrize("tags", [(), ("a", "b]")])
async def test_interop_exchange_is_read_by_betterdb(
    peer: betterdb.AgentCache, ours: AgentCache, plain: valkey.Valkey, tags: tuple[str, ...]
) -> None:
    key, (_, data) = ours.llm.key(HELLO).key, exchange_of(LONG)
    for stored, text in ((data, LONG), (codec().pack(data, tags), LONG[:200])):
        plain.set(key, stored)
        result = await peer.llm.check(HELLO)  # type: ignore[arg-type]
        assert (result.hit, result.response) == (True, text)
        if hasattr(result, "input_tokens"):  # Results of 0.6 have no token counts.
            assert (result.input_tokens, result.output_tokens) == (3, 4)
    # Neither library has removed the entry, or changed it.
    assert plain.get(key) == stored
    assert (await ours.llm.check(HELLO)).response == LONG


@pytest.mark.parametrize("remover", ["theirs", "ours"])
async def test_interop_invalidates_exchanges_of_a_model_in_every_form(
    peer: betterdb.AgentCache, ours: AgentCache, plain: valkey.Valkey, remover: str
) -> None:
    forms = {
        "plain": lambda data: data,
        "compressed": codec().pack,
        "tagged": lambda data: codec().pack(data, ("a", "b]")),
        "compressed as a whole": Compression(above=10, max_bytes=None, as_text=True).pack,
    }
    bodies = {"text": None, "binary": bytes(range(256)) * 20, "empty": b""}
    kept = []
    for number, (form, body) in enumerate((form, body) for form in forms for body in bodies):
        for model in ("gpt-4o", "other"):
            key = f"test:llm:{model}:{number}"
            plain.set(key, forms[form](exchange_of(LONG, bodies[body], model=model)[1]))
            # betterdb cannot read an entry that is compressed as a whole, and so does not know its model.
            if model == "other" or (remover == "theirs" and form == "compressed as a whole"):
                kept.append(key)
    await peer.llm.store(HELLO, "x")  # type: ignore[arg-type]
    if remover == "theirs":
        assert await peer.llm.invalidate_by_model("gpt-4o") == 1 + 3 * len(bodies)
    else:
        assert await ours.llm.invalidate_by_model("gpt-4o", sweep=True) == 1 + len(forms) * len(bodies)
    assert entry_keys(plain) == sorted(kept)


async def test_interop_misses_on_parameter_that_betterdb_ignores(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.store({**HELLO, "top_k": 1}, "for top_k 1")  # type: ignore[typeddict-unknown-key]
    assert not (await ours.llm.check({**HELLO, "top_k": 2})).hit


@pytest.mark.parametrize("args", [{"city": "Sofia", "n": 1.0}, None, [1, {"b": 1, "a": 2}], "text"])
async def test_interop_tool_results_pass_both_ways(peer: betterdb.AgentCache, ours: AgentCache, args: Any) -> None:
    key = await peer.tool.store("get_weather", args, "from the peer", ToolStoreOptions(cost=0.5, ttl=60))
    result = await ours.tool.check("get_weather", args)
    assert (result.source, result.value, result.cost, result.key) == ("l2", "from the peer", 0.5, key)
    await ours.tool.store("get_weather", args, {"from": "us"})
    theirs = await peer.tool.check("get_weather", args)
    assert (theirs.hit, theirs.response) == (True, '{"from":"us"}')
    assert await peer.tool.invalidate_by_tool("get_weather") == 1


async def test_interop_entry_of_betterdb_that_gets_a_tag_stays_readable(
    peer: betterdb.AgentCache, ours: AgentCache, plain: valkey.Valkey
) -> None:
    llm_key = await peer.llm.store(HELLO, "from the peer", LlmStoreOptions(tokens={"input": 3, "output": 4}, ttl=60))
    tool_key = await peer.tool.store("get_weather", {"n": 1}, "from the peer", ToolStoreOptions(cost=0.5, ttl=60))
    tags = ['d]o"c\n\0', "é"]
    assert (await ours.llm.get_or_load(HELLO, lambda: "unused", tags=tags)).response == "from the peer"
    assert (await ours.tool.get_or_load("get_weather", {"n": 1}, lambda: "unused", tags=tags)).value == "from the peer"
    assert all(plain.get(key).startswith(b'{"tcTags":[') and plain.ttl(key) > 0 for key in (llm_key, tool_key))
    assert (await peer.llm.check(HELLO)).response == "from the peer"
    assert (await peer.tool.check("get_weather", {"n": 1})).response == "from the peer"
    assert await ours.invalidate_tag(tags[0]) == 2
    assert not (await peer.llm.check(HELLO)).hit


async def test_interop_statistics_add_up_counts_of_both(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.check(HELLO)
    await peer.llm.store(HELLO, "x", LlmStoreOptions(tokens={"input": 1000, "output": 0}))
    await peer.llm.check(HELLO)
    await ours.llm.check(HELLO)
    await ours.llm.check(HELLO)
    await ours.llm.check(asking("unknown"))
    await peer.tool.check("search", {})
    await ours.tool.check("search", {})
    stats, theirs = await ours.stats(), await peer.stats()
    assert (stats.llm.hits, stats.llm.misses) == (theirs.llm.hits, theirs.llm.misses) == (3, 2)
    assert (stats.tool.misses, stats.per_tool["search"].misses) == (2, 2)
    assert theirs.per_tool["search"].misses == 2
    assert stats.cost_saved_micros == theirs.cost_saved_micros == 3 * 2500


async def test_interop_session_fields_pass_both_ways(
    peer: betterdb.AgentCache, ours: AgentCache, plain: valkey.Valkey
) -> None:
    await peer.session.set("thread-1", "theirs", "é", 60)
    await ours.session.set("thread-1", "ours", "👍🏽", ttl=60)
    assert await ours.session.get("thread-1", "theirs") == "é"
    assert await peer.session.get("thread-1", "ours") == "👍🏽"
    await peer.session.set("thread-1", "ours", "changed", 60)
    assert await ours.session.get("thread-1", "ours", fresh=True) == "changed"
    await ours.session.delete("thread-1", "theirs")
    assert await peer.session.get("thread-1", "theirs") is None
    assert 58 < plain.ttl("test:session:thread-1:ours") <= 60


async def test_interop_tool_policies_pass_both_ways(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.tool.set_policy("theirs", ToolPolicy(ttl=50))
    await ours.tool.set_policy("ours", OurToolPolicy(ttl=70))
    assert await ours.tool.refresh_policies()
    assert ours.tool.get_policy("theirs") == OurToolPolicy(ttl=50)
    await peer.tool.load_policies()
    policy = peer.tool.get_policy("ours")
    assert policy is not None
    assert policy.ttl == 70
    await ours.tool.store("theirs", {}, "x")
    result = await ours.tool.check("theirs", {})
    assert result.ttl is not None
    assert 48 < result.ttl <= 50


async def test_interop_effectiveness_of_tools_is_the_same(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.tool.store("search", {}, "x", ToolStoreOptions(cost=0.5, ttl=60))
    for _ in range(3):
        await ours.tool.check("search", {})
        await peer.tool.check("search", {})
    await ours.tool.check("search", {"q": "unknown"})
    await ours.stats()  # Sends the counts of this process.
    ours_now, theirs_now = await ours.tool_effectiveness(), await peer.tool_effectiveness()
    assert [(each.tool, each.hit_rate, each.cost_saved, each.recommendation) for each in ours_now] == [
        (each.tool, each.hit_rate, each.cost_saved, each.recommendation) for each in theirs_now
    ]
    ((tool, cost_saved),) = ((each.tool, each.cost_saved) for each in ours_now)
    assert (tool, cost_saved) == ("search", 3.0)


async def test_interop_statistics_of_sessions_add_up(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.session.set("t", "f", "x")
    await peer.session.get("t", "f")
    await ours.session.set("t", "g", "x")
    await ours.session.get("t", "g")
    await ours.session.get("t", "unknown")
    stats, theirs = await ours.stats(), await peer.stats()
    assert (stats.session.reads, stats.session.writes) == (theirs.session.reads, theirs.session.writes) == (3, 2)


async def test_interop_flush_of_betterdb_removes_entries_of_both(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await ours.llm.store(HELLO, "x")
    await peer.llm.store(asking("y"), "y")
    await peer.flush()
    ours.clear_l1()
    assert not (await ours.llm.check(HELLO)).hit
    assert not (await ours.llm.check(asking("y"))).hit
