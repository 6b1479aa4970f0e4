"""Hits of the other tiers: tool results, session fields, and 100 values with one call."""

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.data import NAME, TOOL, tool_args, tool_text
from benchmarks.peers.protocol import Peer
from benchmarks.timing import Clock, Measured
from benchmarks.works.lookups import Lookups
from benchmarks.works.work import Bench, Variant, Work, expect_equal, size_of, wait_for_own_invalidations

_BATCH = 100


def _by_level(callers: tuple[int, ...] = (1, 100)) -> list[Variant]:
    return [
        Variant(f"{use}-{count}", use.upper(), f"{count:,} caller" + "s" * (count > 1), use=use, callers=count)
        for use in ("l1", "l2")
        for count in callers
    ]


class ToolCheck(Lookups):
    name = "tool-check"
    title = "Tool check"
    quick = False
    explained = "the stored result of a tool call, by the name and arguments of the tool"
    needs = ("tool_check", "tool_store")

    def variants(self) -> list[Variant]:
        return _by_level()

    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        assert peer.tool_store is not None
        await peer.tool_store(TOOL, tool_args(number), tool_text(number))

    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        tool_check = peer.tool_check
        assert tool_check is not None

        async def check(args: Any) -> Any:
            return await tool_check(TOOL, args)

        return check

    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        return tool_args(number)

    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        expect_equal(peer, peer.text(found), tool_text(number))


class SessionGet(Lookups):
    name = "session-get"
    title = "Session get"
    quick = False
    explained = "one field of a thread"
    needs = ("session_get", "session_set")

    def variants(self) -> list[Variant]:
        return _by_level()

    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        assert peer.session_set is not None
        await peer.session_set(f"thread-{number}", "intent", f"book flight {number}")

    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        session_get = peer.session_get
        assert session_get is not None

        async def get(thread: str) -> Any:
            return await session_get(thread, "intent")

        return get

    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        return f"thread-{number}"

    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        expect_equal(peer, found, f"book flight {number}")


class GetMany(Work):
    """100 keys at a time, by the bulk method of the cache."""

    name = "get-many"
    title = "100 values with one call"
    quick = False
    explained = "`kv.get_many` and the bulk methods of other caches, 100 keys"
    needs = ("set", "get_many")

    def variants(self) -> list[Variant]:
        return [Variant(use, "time per batch", use.upper(), use=use) for use in ("l1", "l2")]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        get_many, put = peer.get_many, peer.set
        assert get_many is not None
        assert put is not None
        keys = [f"{NAME}-{number}" for number in range(_BATCH)]
        values = [size_of(variant).reply(number).as_dict() for number in range(_BATCH)]
        for key, value in zip(keys, values, strict=True):
            await put(key, value)
        await wait_for_own_invalidations()
        expect_equal(peer, peer.values(await get_many(keys), keys), values)
        await wait_for_own_invalidations()

        async def body(loops: int) -> tuple[Clock, int]:
            clock = Clock()
            for _ in range(loops):
                with clock:
                    found = await get_many(keys)
                expect_equal(peer, peer.values(found, keys), values)
            return clock, loops

        return await bench.sample(body)
