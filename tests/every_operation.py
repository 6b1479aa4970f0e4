"""Every public operation of a cache once, for tests of the rights that they need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tests.requests import HELLO
from tests.seams import conversations_of, exchanges_of, follower_count, items_of
from tests.support import until
from tiercache import AgentCache, RuntimeSettings, ToolPolicy
from tiercache.engine.call import Loaded
from tiercache.streams.recording import Recording
from tiercache.tiers.checkpoints.checkpoint import NewCheckpoint, PendingWrite, Place, TypedBytes
from tiercache.tiers.conversations.store import Entry, Record
from tiercache.tiers.items.store import Find, Get, Namespaces, Put
from tiercache.tiers.llm.exchanges import ExchangeOptions, Head

__all__ = ["LOADS", "OPERATIONS"]

Operation = Callable[[AgentCache], Awaitable[Any]]


async def _guarded(guard: Any) -> None:
    async with guard:
        pass


async def _scoped(cache: AgentCache) -> None:
    with cache.calls(scope="alice"):
        await cache.kv.set("k", 1, tags=["tag"])
        await cache.kv.get("absent")
        await cache.kv.delete("k")


async def _scanned(cache: AgentCache) -> list[Any]:
    return [entry async for entry in cache.kv.scan()]


async def _shared_stream(cache: AgentCache) -> None:
    """Stream an answer to two callers, the second of which reads it as a process does that waits for the lease."""
    exchanges = exchanges_of(cache)
    key = exchanges.key("0" * 64, "gpt-4o")

    async def record(show: Callable[[Recording], None]) -> Loaded:
        recording = Recording(Head(200, (), ()), max_bytes=1000)
        show(recording)
        recording.append(b"x", 1)
        # Both readers, and the writer of the live stream, unless a right is missing.
        with suppress(AssertionError):
            await until(lambda: follower_count() == 4, 0.5)
        recording.end()
        return exchanges.unstored(key)

    async def read(mode: Any) -> None:
        lookup = await exchanges.get_or_record(key, record, ExchangeOptions(True, mode))
        assert [part async for part in lookup.ongoing.place] == [[b"x"]]
        lookup.ongoing.leave()

    await asyncio.gather(read("store_only"), read("use"))


# A step of a graph, and a write of its next step.
CHECKPOINT = NewCheckpoint(
    place=Place("", "1"),
    parent=None,
    checkpoint=TypedBytes("json", b"{}"),
    metadata=TypedBytes("json", b"{}"),
    versions={"channel": 1},
    fresh={"channel": TypedBytes("json", b"[1, 2, 3]")},
    cleared=frozenset(),
    unchanged=frozenset(),
    dump_unchanged=dict,
    run_id="run",
)
WRITE = PendingWrite("task", 0, "channel", TypedBytes("json", b"1"))
# A conversation, and the entries of its log.
CONVERSATION = Record("c", "r", "2", (), "u", 1, b"{}")
ENTRIES = [Entry("1", None, b"[]"), Entry("2", "1", b"[]")]

# Loads: their callers get the loader's value, whatever Valkey refuses.
LOADS: dict[str, Operation] = {
    "kv.get_or_load": lambda cache: cache.kv.get_or_load("loaded", lambda: "x", tags=["tag"]),
    "kv.get_or_load_many": lambda cache: cache.kv.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, "x")),
    "llm.get_or_load": lambda cache: cache.llm.get_or_load({**HELLO, "seed": 1}, lambda: "x"),
    "llm.get_or_load again": lambda cache: cache.llm.get_or_load({**HELLO, "seed": 1}, lambda: "x", mode="refresh"),
    "tool.get_or_load": lambda cache: cache.tool.get_or_load("t", {"a": 1}, lambda a: "x"),
    "llm stream": _shared_stream,
}
OPERATIONS: dict[str, Operation] = {
    **LOADS,
    "kv.set": lambda cache: cache.kv.set("k", {"a": 1}, ttl=60, tags=["tag"]),
    "kv.set_many": lambda cache: cache.kv.set_many({"k": 1, "l": 2}),
    "kv.get": lambda cache: cache.kv.get("absent"),
    "kv.get_many": lambda cache: cache.kv.get_many(["absent", "other"]),
    "kv.exists": lambda cache: cache.kv.exists("absent too"),
    "kv.explain": lambda cache: cache.kv.explain("k"),
    "kv.invalidates": lambda cache: _guarded(cache.kv.invalidates("k")),
    "kv.delete": lambda cache: cache.kv.delete("k"),
    "kv.delete_many": lambda cache: cache.kv.delete_many(["k", "l"]),
    "kv in a scope": _scoped,
    "llm.store": lambda cache: cache.llm.store(HELLO, "x", tags=["tag"]),
    "llm.store_multipart": lambda cache: cache.llm.store_multipart(HELLO, [{"type": "text", "text": "x"}]),
    "llm.check": lambda cache: cache.llm.check({**HELLO, "seed": 2}),
    "llm.invalidate": lambda cache: cache.llm.invalidate(HELLO),
    "llm.invalidate_by_model": lambda cache: cache.llm.invalidate_by_model("gpt-4o"),
    "llm sweep": lambda cache: cache.llm.invalidate_by_model("gpt-4o", sweep=True),
    "llm.pin": lambda cache: cache.llm.pin(HELLO, "x"),
    "llm.check of a pin": lambda cache: cache.llm.check(HELLO),
    "llm.pins": lambda cache: cache.llm.pins(),
    "llm.unpin": lambda cache: cache.llm.unpin(HELLO),
    "tool.pin": lambda cache: cache.tool.pin("t", {"a": 3}, 1),
    "tool.pins": lambda cache: cache.tool.pins(),
    "tool.unpin": lambda cache: cache.tool.unpin("t", {"a": 3}),
    "verify": lambda cache: cache.verify(os.devnull),
    "tool.store": lambda cache: cache.tool.store("t", {}, "x"),
    "tool.check": lambda cache: cache.tool.check("t", {"a": 2}),
    "tool.invalidate": lambda cache: cache.tool.invalidate("t", {}),
    "tool.set_policy": lambda cache: cache.tool.set_policy("t", ToolPolicy(60)),
    "configure": lambda cache: cache.configure("tool", RuntimeSettings(ttl=60), tool="t"),
    "configure (remove)": lambda cache: cache.configure("tool", None, tool="t"),
    "refresh_settings": lambda cache: cache.refresh_settings(),
    "tool.refresh_policies": lambda cache: cache.tool.refresh_policies(),
    "tool.invalidate_by_tool": lambda cache: cache.tool.invalidate_by_tool("t"),
    "session.set": lambda cache: cache.session.set("thread", "f", "x", ttl=60),
    "session.set forever": lambda cache: cache.session.set("thread", "g", "x"),
    "session.get": lambda cache: cache.session.get("thread", "f", fresh=True),
    "session.set_json": lambda cache: cache.session.set_json("thread", "json", [1]),
    "session.append": lambda cache: cache.session.append("thread", "json", 2),
    "session.incr": lambda cache: cache.session.incr("thread", "count"),
    "session.compare_and_set": lambda cache: cache.session.compare_and_set("thread", "f", "x", "y"),
    "session.get_or_load": lambda cache: cache.session.get_or_load("thread", "derived", lambda: "x"),
    "session.get_all": lambda cache: cache.session.get_all("thread"),
    "session.touch": lambda cache: cache.session.touch("thread"),
    "session.delete": lambda cache: cache.session.delete("thread", "f"),
    "session.destroy_thread": lambda cache: cache.session.destroy_thread("thread"),
    "checkpoints.put": lambda cache: cache.checkpoints.put("thread", CHECKPOINT),
    "checkpoints.put_writes": lambda cache: cache.checkpoints.put_writes("thread", CHECKPOINT.place, [WRITE]),
    "checkpoints.get": lambda cache: cache.checkpoints.get("thread"),
    "checkpoints.places": lambda cache: cache.checkpoints.places("thread"),
    "checkpoints.threads": lambda cache: cache.checkpoints.threads(),
    "checkpoints.copy_thread": lambda cache: cache.checkpoints.copy_thread("thread", "copy"),
    "checkpoints.remove": lambda cache: cache.checkpoints.remove("copy", [CHECKPOINT.place]),
    "checkpoints.remove_run": lambda cache: cache.checkpoints.remove_run("run"),
    "checkpoints.destroy_thread": lambda cache: cache.checkpoints.destroy_thread("thread"),
    "items put": lambda cache: items_of(cache).run([Put(("a",), "k", b"{}", 60)]),
    "items put forever": lambda cache: items_of(cache).run([Put(("b",), "k", b"{}")]),
    "items get": lambda cache: items_of(cache).run([Get(("a",), "k", renew=True)]),
    "items find": lambda cache: items_of(cache).run([Find(())]),
    "items namespaces": lambda cache: items_of(cache).run([Namespaces()]),
    "items remove": lambda cache: items_of(cache).run([Put(("b",), "k", None), Put(("a",), "k", None)]),
    "conversations write": lambda cache: conversations_of(cache).write(CONVERSATION, ENTRIES, None, 60),
    "conversations record": lambda cache: conversations_of(cache).record("c", 60),
    "conversations records": lambda cache: conversations_of(cache).records("u", None),
    "conversations history": lambda cache: conversations_of(cache).history("2", None),
    "conversations delete": lambda cache: conversations_of(cache).delete("c", "r"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("tag"),
    "kv.clear": lambda cache: cache.kv.clear(),
    "kv.scan": _scanned,
    "kv.inspect": lambda cache: cache.kv.inspect("k"),
    "kv.warm": lambda cache: cache.kv.warm(["warm"], lambda: 1),
    "kv.delete_pattern": lambda cache: cache.kv.delete_pattern("*"),
    "kv.delete_pattern counted": lambda cache: cache.kv.delete_pattern("*", dry_run=True),
    "llm.clear": lambda cache: cache.llm.clear(),
    "tool.clear": lambda cache: cache.tool.clear(),
    "session.clear": lambda cache: cache.session.clear(),
    "stats": lambda cache: cache.stats(),
    "tool_effectiveness": lambda cache: cache.tool_effectiveness(min_samples=1),
    "reindex": lambda cache: cache.reindex(),
    "flush": lambda cache: cache.flush(include_session=True),
    "flush_writes": lambda cache: cache.flush_writes(),
}
