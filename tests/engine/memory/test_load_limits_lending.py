"""The slots of ``ResilienceOptions.max_loads``: each is free again after the loads have ended."""

from __future__ import annotations

import asyncio

from tests.requests import turns
from tiercache import ResilienceOptions
from tiercache.engine.memory.load_limits import LoadLimits


async def test_load_limits_free_every_slot_after_two_waits_of_one_load_end_together() -> None:
    limits = LoadLimits(ResilienceOptions(max_loads=2))
    first_ends, others_end = asyncio.Event(), asyncio.Event()

    async def lend_until_set() -> None:
        async with limits.lent():
            await first_ends.wait()

    async def lend_for_a_step() -> None:
        async with limits.lent():
            await asyncio.sleep(0)

    async def lending_loader() -> None:
        first = asyncio.create_task(lend_until_set())
        await asyncio.sleep(0.01)
        # Two other loads take both slots while this load lends its own.
        others = [asyncio.create_task(limits.run(others_end.wait, apart=True)) for _ in range(2)]
        await asyncio.sleep(0.01)
        first_ends.set()
        await asyncio.sleep(0.01)
        # The first wait is over and waits for a slot; the second does so now.
        second = asyncio.create_task(lend_for_a_step())
        await asyncio.sleep(0.01)
        others_end.set()
        await asyncio.gather(first, second, *others)

    await limits.run(lending_loader)

    async def occupy(entered: asyncio.Event, leave: asyncio.Event) -> None:
        entered.set()
        await leave.wait()

    entered, leave = [asyncio.Event(), asyncio.Event()], asyncio.Event()
    tasks = [asyncio.create_task(limits.run(lambda event=event: occupy(event, leave))) for event in entered]
    async with asyncio.timeout(5):
        await asyncio.gather(*(event.wait() for event in entered))
    leave.set()
    await asyncio.gather(*tasks)


async def lend(limits: LoadLimits, until: asyncio.Event) -> None:
    async with limits.lent():
        await until.wait()


async def is_slot_free(limits: LoadLimits) -> None:
    """Fail unless a load can take the slot now."""
    async with asyncio.timeout(5):
        await limits.run(lambda: asyncio.sleep(0))


async def test_load_limits_free_the_slot_of_a_load_that_ends_while_its_wait_takes_the_slot_back() -> None:
    limits = LoadLimits(ResilienceOptions(max_loads=1))
    wait_ends, load_ends, other_ends = asyncio.Event(), asyncio.Event(), asyncio.Event()
    waits: list[asyncio.Task[None]] = []

    async def loader() -> None:
        waits.append(asyncio.create_task(lend(limits, wait_ends)))  # Outlives its load.
        await load_ends.wait()

    loading = asyncio.create_task(limits.run(loader))
    await turns()
    other = asyncio.create_task(limits.run(other_ends.wait))
    await turns()
    wait_ends.set()
    await turns()
    # The other load has the slot for which the wait now waits.
    load_ends.set()
    await loading
    other_ends.set()
    await asyncio.gather(other, *waits)
    await is_slot_free(limits)


async def test_load_limits_free_the_slot_of_a_load_that_lends_again_while_its_first_wait_takes_the_slot_back() -> None:
    limits = LoadLimits(ResilienceOptions(max_loads=1))
    first_ends, second_ends, other_ends = asyncio.Event(), asyncio.Event(), asyncio.Event()
    start_second = asyncio.Event()

    async def loader() -> None:
        first = asyncio.create_task(lend(limits, first_ends))
        await start_second.wait()
        await asyncio.gather(first, lend(limits, second_ends))

    loading = asyncio.create_task(limits.run(loader))
    await turns()
    other = asyncio.create_task(limits.run(other_ends.wait))
    await turns()
    first_ends.set()
    await turns()
    # The first wait waits for the slot, which the other load has. The load lends its slot for a second wait.
    start_second.set()
    await turns()
    other_ends.set()
    await other
    await turns()
    try:
        await is_slot_free(limits)
    finally:
        second_ends.set()
        await turns()
    await loading
    await is_slot_free(limits)


async def test_load_limits_let_a_load_end_that_is_cancelled_while_it_lends_its_slot() -> None:
    limits = LoadLimits(ResilienceOptions(max_loads=1))
    never, other_ends = asyncio.Event(), asyncio.Event()
    loading = asyncio.create_task(limits.run(lambda: lend(limits, never)))
    await turns()
    other = asyncio.create_task(limits.run(other_ends.wait))
    await turns()
    loading.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([loading])
    assert loading.cancelled()
    other_ends.set()
    await other
    await is_slot_free(limits)


async def test_load_limits_free_the_slot_that_a_cancelled_wait_has_taken_back() -> None:
    limits = LoadLimits(ResilienceOptions(max_loads=1))
    never = asyncio.Event()

    async def loader() -> None:
        try:
            async with asyncio.timeout(0.01):
                await lend(limits, never)
        except TimeoutError:
            # The slot was free: this load has it again, and no other load can take it.
            other = asyncio.create_task(limits.run(lambda: asyncio.sleep(0), apart=True))
            await turns()
            assert not other.done()
            others.append(other)

    others: list[asyncio.Task[None]] = []
    await limits.run(loader)
    await others[0]
