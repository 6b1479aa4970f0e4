"""Operations on a group of entries, while the server holds more and more unrelated keys."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from benchmarks.data import MODEL, SIZES, TOOL, tool_args, tool_text
from benchmarks.peers.protocol import Endpoint, Peer, Setting
from benchmarks.timing import Clock, Measured
from benchmarks.works.work import Bench, Variant, Work, expect_equal

UNRELATED = (1_000, 10_000, 100_000, 1_000_000)
L1_ENTRIES = (1_000, 10_000, 100_000)
_ROOM = 2_000_000
_QUICK_UNRELATED = (1_000, 100_000)
_MEMBERS = 10
_FIRST_CALLS = 3
_THREAD = "thread-1"
_FIELDS = {f"field-{number}": f"value {number}" for number in range(_MEMBERS)}


class _Group(Work):
    """Fills a group of ten, then times one call. Most calls empty the group, so each call gets a filled group."""

    needs: ClassVar[tuple[str, ...]]

    def variants(self) -> list[Variant]:
        return [
            Variant(f"{count}", "unrelated keys", f"{count:,}", count=count, quick=count in _QUICK_UNRELATED)
            for count in UNRELATED
        ]

    def unrelated(self, variant: Variant) -> int:
        return variant.count

    @abstractmethod
    async def fill(self, peer: Peer) -> None:
        """Store the members of the group."""

    @abstractmethod
    def call(self, peer: Peer) -> Callable[[], Awaitable[Any]]:
        """Return the timed call."""

    wanted: ClassVar[Any] = _MEMBERS

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        call = self.call(peer)

        async def body(loops: int) -> tuple[Clock, int]:
            clock = Clock()
            for _ in range(loops):
                await self.fill(peer)
                with clock:
                    found = await call()
                expect_equal(peer, found, self.wanted)
            return clock, loops

        # The first calls of a cache may scan for entries of other software, so they are warm-up. A cache without L1
        # scans in every call and has no cheaper later calls: at the largest keyspace it gets no warm-up.
        if variant.count < UNRELATED[-1] or "l1" in peer.levels:
            await body(_FIRST_CALLS)
        return await bench.sample(body)


class InvalidateTool(_Group):
    name = "invalidate-tool"
    title = "Invalidate by tool"
    explained = "`invalidate_by_tool` of ten results"
    needs = ("tool_store", "invalidate_tool")

    async def fill(self, peer: Peer) -> None:
        assert peer.tool_store is not None
        await asyncio.gather(*(peer.tool_store(TOOL, tool_args(each), tool_text(each)) for each in range(_MEMBERS)))

    def call(self, peer: Peer) -> Callable[[], Awaitable[Any]]:
        invalidate = peer.invalidate_tool
        assert invalidate is not None
        return lambda: invalidate(TOOL)


class InvalidateModel(_Group):
    name = "invalidate-model"
    title = "Invalidate by model"
    explained = "`invalidate_by_model` of ten answers"
    needs = ("invalidate_model",)

    async def fill(self, peer: Peer) -> None:
        size = SIZES["short"]
        await asyncio.gather(*(peer.store(size.build(each), size.reply(each)) for each in range(_MEMBERS)))

    def call(self, peer: Peer) -> Callable[[], Awaitable[Any]]:
        invalidate = peer.invalidate_model
        assert invalidate is not None
        return lambda: invalidate(MODEL)


class DropFromL1(Work):
    """Removes an entry of a model of its own among more and more entries in process memory, without Valkey."""

    name = "drop-l1"
    title = "Invalidate by model, by number of entries in L1"
    explained = "`invalidate_by_model` of one answer, among answers of another model, in a cache without Valkey"
    needs = ("invalidate_model",)
    rounds = 1

    def variants(self) -> list[Variant]:
        return [
            Variant(f"{count}", "entries in memory", f"{count:,}", use="memory", count=count, quick=count <= 10_000)
            for count in L1_ENTRIES
        ]

    def setting(self, endpoint: Endpoint, variant: Variant) -> Setting:
        return Setting(endpoint, variant.use, max_entries=_ROOM)

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        invalidate, size = peer.invalidate_model, SIZES["short"]
        assert invalidate is not None
        for number in range(variant.count):
            await peer.store(size.build(number), size.reply(number))
        alone = {**size.build(0), "model": "alone"}

        async def body(loops: int) -> tuple[Clock, int]:
            clock = Clock()
            for _ in range(loops):
                await peer.store(alone, size.reply(0))
                with clock:
                    found = await invalidate("alone")
                expect_equal(peer, found, 1)
            return clock, loops

        return await bench.sample(body)


class SessionAll(_Group):
    name = "session-all"
    title = "All fields of a thread"
    explained = "`session.get_all` of ten fields"
    needs = ("session_set", "session_all")
    wanted: ClassVar[Any] = _FIELDS

    async def fill(self, peer: Peer) -> None:
        assert peer.session_set is not None
        await asyncio.gather(*(peer.session_set(_THREAD, field, text) for field, text in _FIELDS.items()))

    def call(self, peer: Peer) -> Callable[[], Awaitable[Any]]:
        session_all = peer.session_all
        assert session_all is not None
        return lambda: session_all(_THREAD)


class DestroyThread(SessionAll):
    name = "destroy-thread"
    title = "Destroy a thread"
    explained = "`session.destroy_thread` of ten fields"
    needs = ("session_set", "destroy_thread")
    wanted = _MEMBERS

    def call(self, peer: Peer) -> Callable[[], Awaitable[Any]]:
        destroy = peer.destroy_thread
        assert destroy is not None
        return lambda: destroy(_THREAD)
