"""Memory of entries: measured, against the bytes that the cache counts for them."""

from __future__ import annotations

import gc
import sys
import tracemalloc

from tests.requests import asking
from tests.seams import L1View, known_keys
from tiercache import AgentCache

COUNT = 5000


async def test_entry_takes_little_memory_beside_its_value_and_no_more_than_is_counted() -> None:
    plain = 0
    async with AgentCache.in_memory() as cache:
        await cache.llm.store(asking("first"), "answer", tokens={"input": 1})  # The first store reads the prices.
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(COUNT):
                tokens = {"input": 14, "output": 9}
                key = await cache.llm.store(asking(f"question {number}"), f"answer {number}", tokens=tokens)
                plain += sys.getsizeof(key) + sys.getsizeof(f'{{"response":"answer {number}","tokens":{tokens}}}')
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert cache.local_stats().l1_entry_count == COUNT + 1
        assert (taken - plain) / COUNT < 540
        assert taken <= L1View(cache).size_bytes + known_keys(cache.llm).size_bytes
