"""The keys of the values with one tag in a kv tier.

The index of the tag has the key of every such value. Where the server may have evicted the index, every key of the
server is looked at.
"""

from __future__ import annotations

from ...engine.level2.replies import send
from ...engine.operations.invalidate import GroupEntries, Members
from ...engine.runtime.l2 import L2
from ...indexes.names import tag_groups
from ..tagged import entries_with_tag
from .tier import KvTier

__all__ = ["tagged_keys"]


async def tagged_keys(tier: KvTier, tag: str, beginning: str = "") -> list[str]:
    """Return the keys of ``tier`` that begin with ``beginning``, and whose values were stored with ``tag``.

    Of a tier with scopes, the keys of the present scope alone.

    Raises:
        L2UnavailableError: Valkey did not answer.
        L2CommandError: Valkey refused.
        UsageError, WrongLoopError: As for every method of the tier.
    """
    (group,) = tag_groups((tag,))
    engine, prefix = tier._engine, tier._keys.prefix_now()
    start = prefix + beginning
    with engine.operation("kv.tagged_keys"):
        runtime = await engine.open()
        if isinstance(runtime.l2, L2):
            runtime.breaker.check_allowed()
            found = await _keys_in_valkey(entries_with_tag(tier._name, group), start.encode(), runtime.l2)
        else:
            found = [key for key in runtime.l1.keys_of_group(group, engine.now()) if key.startswith(start)]
    return [key[len(prefix) :] for key in found]


async def _keys_in_valkey(entries: GroupEntries, start: bytes, l2: L2) -> list[str]:
    index, sift = entries.group_index, entries.sift
    assert index is not None
    assert sift is not None
    # A write that is still queued is not in the index yet.
    await l2.pipe.flush()
    (answer,) = await send(l2.level2, [index.question])
    is_complete = answer == index.complete_reply and not await l2.eviction.may_evict()
    pages = Members(l2.level2, index.key).pages() if is_complete else l2.level2.scan(start.decode())
    found: dict[str, None] = {}
    async for page in pages:
        # An index keeps the key of an entry that has ended until the next trim, and any client can write into it.
        keys = [key for key in page if key.startswith(start)]
        if keys:
            (live,) = await send(l2.level2, [sift(keys)])
            found |= dict.fromkeys(key.decode() for key in live)
    return list(found)
