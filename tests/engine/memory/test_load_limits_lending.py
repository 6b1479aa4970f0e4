"""The slots of ``ResilienceOptions.max_loads``: each is free again after the loads have ended."""

from __future__ import annotations

import asyncio

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
