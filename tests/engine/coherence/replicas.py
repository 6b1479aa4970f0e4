"""Changes that one replica makes, and entries that another replica holds while it makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.requests import HELLO, Loader
from tests.seams import in_l1
from tiercache import AgentCache

CHANNEL = "test:__tc:bus:0"


async def refresh(cache: AgentCache) -> None:
    """Refresh the llm answer, and wait until Valkey has acknowledged it."""
    await cache.llm.get_or_load(HELLO, Loader("newer"), mode="refresh")
    await cache.flush_writes()


KV, LLM, TOOL, SESSION = "kv", "llm", "tool", "session"


CHANGES: dict[str, tuple[Callable[[AgentCache], Awaitable[Any]], set[str]]] = {
    "llm.store": (lambda a: a.llm.store(HELLO, "newer"), {LLM}),
    "llm.store_multipart": (lambda a: a.llm.store_multipart(HELLO, [{"type": "text", "text": "newer"}]), {LLM}),
    "llm.invalidate": (lambda a: a.llm.invalidate(HELLO), {LLM}),
    "llm.invalidate_by_model": (lambda a: a.llm.invalidate_by_model("gpt-4o"), {LLM}),
    "llm.clear": (lambda a: a.llm.clear(), {LLM}),
    "llm refreshed": (refresh, {LLM}),
    "tool.store": (lambda a: a.tool.store("t", {}, "newer"), {TOOL}),
    "tool.invalidate": (lambda a: a.tool.invalidate("t", {}), {TOOL}),
    "tool.invalidate_by_tool": (lambda a: a.tool.invalidate_by_tool("t"), {TOOL}),
    "tool.clear": (lambda a: a.tool.clear(), {TOOL}),
    "kv.set": (lambda a: a.kv.set("k", "newer"), {KV}),
    "kv.set_many": (lambda a: a.kv.set_many({"k": "newer", "l": 1}), {KV}),
    "kv.delete": (lambda a: a.kv.delete("k"), {KV}),
    "kv.delete_many": (lambda a: a.kv.delete_many(["k", "l"]), {KV}),
    "kv.clear": (lambda a: a.kv.clear(), {KV}),
    "kv.delete_pattern": (lambda a: a.kv.delete_pattern("[j-l]*"), {KV}),
    "invalidate_tag": (lambda a: a.invalidate_tag("both"), {KV, LLM}),
    "session.set": (lambda a: a.session.set("thread", "field", "newer"), {SESSION}),
    "session.delete": (lambda a: a.session.delete("thread", "field"), {SESSION}),
    "session.compare_and_set": (lambda a: a.session.compare_and_set("thread", "field", "older", "x"), {SESSION}),
    "session.destroy_thread": (lambda a: a.session.destroy_thread("thread"), {SESSION}),
    "session.clear": (lambda a: a.session.clear(), {SESSION}),
    "flush": (lambda a: a.flush(), {KV, LLM, TOOL}),
    "flush with sessions": (lambda a: a.flush(include_session=True), {KV, LLM, TOOL, SESSION}),
    "another key": (lambda a: a.kv.set("another", "x"), set()),
    "another model": (lambda a: a.llm.invalidate_by_model("gpt-4o-mini"), set()),
    "another tool": (lambda a: a.tool.invalidate_by_tool("tt"), set()),
    "another tag": (lambda a: a.invalidate_tag("neither"), set()),
    "another thread": (lambda a: a.session.destroy_thread("thread2"), set()),
    "another pattern": (lambda a: a.kv.delete_pattern("k?*"), set()),
    "pattern of another tier": (lambda a: a.tier("named").delete_pattern("*"), set()),
    "another tier": (lambda a: a.tier("named").clear(), set()),
}


async def fill_replicas(a: AgentCache, b: AgentCache) -> dict[str, str]:
    """Store an entry of each tier through ``a``, read them through ``b``; return the key of each tier."""
    keys = {
        LLM: await a.llm.store(HELLO, "older", tags=["both"]),
        TOOL: await a.tool.store("t", {}, "older"),
        KV: "test:__tc:kv:kv:k",
        SESSION: "test:session:thread:field",
    }
    await a.kv.set("k", "older", tags=["both"])
    await a.session.set("thread", "field", "older")
    assert (await b.llm.check(HELLO)).source == "l2"
    assert (await b.tool.check("t", {})).source == "l2"
    assert (await b.kv.get("k"), await b.session.get("thread", "field")) == ("older", "older")
    assert all(in_l1(b, key) for key in keys.values())
    return keys
