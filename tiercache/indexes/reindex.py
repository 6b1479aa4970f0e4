"""Reindexing: finds out whether the indexes of a cache are complete, and completes them.

The indexes are complete if there were no entries when the cache was first opened. Otherwise a process scans every key
and adds the missing entries. Before the scan the process makes a claim, and it may set the flag only if the claim still
exists afterwards: a process that overwrites another software's marker deletes all claims, because that software may
have written entries during the scan. Entries that tiercache writes during the scan are no problem: they are in their
index before they are anywhere else.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from ..engine.entries.entry import Group
from ..engine.entries.rules import UnreadableHereError
from ..engine.level2.breaker import GuardedLevel2
from ..engine.level2.eviction import eviction_policy_in, evicts_any
from ..engine.level2.replies import send
from ..engine.level2.writes import Command
from ..engine.operations.invalidate import is_text
from ..errors import TierCacheError
from ..log import CacheLog
from .names import IndexNames, index_key
from .scripts import note_fields_script

__all__ = ["Reindex"]

_SCAN_COUNT: Final = 1000
# Values read, and session fields indexed, in one exchange.
_READ_COUNT: Final = 50
_FIELD_COUNT: Final = 250
# Seconds that opening a cache may spend on the scan; enough for about 300,000 keys on loopback.
_LOOK_SECONDS: Final = 0.1
# Lifetime of a claim. The claim of a dead process does no harm until then.
_CLAIM_SECONDS: Final = 24 * 3600


class Reindex:
    """The reindexing of the cache ``name`` by one process.

    Args:
        model_of: Returns the model in the bytes of an llm entry, or None if the bytes are no entry. Raises
            UnreadableHereError if only other processes can read the entry.
        log: The cache's log.
    """

    def __init__(self, name: str, model_of: Callable[[bytes], str | None], log: CacheLog) -> None:
        self._name = name
        self._log = log
        self._model_of = model_of
        self._unreadable_count = 0
        self._names = IndexNames.of(name)
        self._prefixes = tuple(f"{name}:{tier}:".encode() for tier in ("llm", "tool", "session"))

    async def begin(self, level2: GuardedLevel2) -> bool:
        """Mark the indexes as complete if there is no entry yet; return False if the scan took too long.

        Never raises a TierCacheError: after an error the indexes count as incomplete.
        """
        try:
            flag, info = await level2.execute([("EXISTS", self._names.flag), ("INFO", "memory")])
            if flag != 0 or evicts_any(eviction_policy_in(info)):
                return True
            claim = await self._claim(level2)
            give_up_at = asyncio.get_running_loop().time() + _LOOK_SECONDS
            async with aclosing(self._entries(level2)) as pages:
                async for keys in pages:
                    if keys or asyncio.get_running_loop().time() > give_up_at:
                        await level2.execute([("SREM", self._names.claims, claim)])
                        return bool(keys)
            await self._finish(level2, claim)
        except TierCacheError as error:
            self._log.debug("cannot find out whether there are entries, so the indexes count as incomplete: %s", error)
        return True

    async def run(self, level2: GuardedLevel2) -> int:
        """Add every entry to its index and mark the indexes as complete; return how many entries were missing.

        Raises:
            L2UnavailableError, L2CommandError: Some entries may have been added.
        """
        claim = await self._claim(level2)
        count = 0
        self._unreadable_count = 0
        async for keys in self._entries(level2):
            count += await self._add(level2, keys)
        (info,) = await level2.execute([("INFO", "memory")])
        if self._unreadable_count:
            self._log.warning(
                "the indexes count as incomplete: this process cannot read %d entries that other processes may be able "
                "to read",
                self._unreadable_count,
            )
        elif evicts_any(eviction_policy_in(info)):
            self._log.warning("the indexes count as incomplete: the maxmemory-policy of Valkey may evict them")
        elif not await self._finish(level2, claim):
            self._log.warning("the indexes count as incomplete: other software uses this name")
        return count

    async def watch(self, level2: GuardedLevel2) -> None:
        """Mark the indexes as incomplete if the server may have evicted one of them. Raises the errors of ``run``."""
        (info,) = await level2.execute([("INFO", "memory")])
        # If the server does not report its policy, the flag stays, because nothing shows an eviction. Each operation
        # treats such a server as one that evicts.
        policy = eviction_policy_in(info)
        if policy is not None and evicts_any(policy):
            await level2.execute([("DEL", self._names.flag, self._names.claims)])

    async def _claim(self, level2: GuardedLevel2) -> str:
        claim = secrets.token_hex(8)
        claims = self._names.claims
        await send(level2, [("SADD", claims, claim), ("EXPIRE", claims, _CLAIM_SECONDS)])
        return claim

    async def _finish(self, level2: GuardedLevel2, claim: str) -> bool:
        (reply,) = await level2.execute([self._names.command("finish", self._name, claim)])
        return bool(reply == 1)

    async def _entries(self, level2: GuardedLevel2) -> AsyncGenerator[list[bytes], None]:
        """Yield the keys of llm, tool and session entries in pages. Many pages are empty."""
        # One SCAN finds the entries of the three tiers, and skips most other keys of the cache. A cache's name contains
        # no character that a pattern must escape.
        pattern = f"{self._name}:[lts]*"
        cursor: Any = 0
        while True:
            ((cursor, keys),) = await send(level2, [("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
            yield [key for key in keys if key.startswith(self._prefixes)]
            if int(cursor) == 0:
                return

    async def _add(self, level2: GuardedLevel2, keys: Sequence[bytes]) -> int:
        llm, tool, session = self._prefixes
        members: dict[str, list[bytes]] = defaultdict(list)
        fields: dict[bytes, list[bytes]] = defaultdict(list)
        for key in keys:
            if key.startswith(tool):
                name, has_end, _ = key[len(tool) :].partition(b":")
                if has_end and is_text(name):
                    members[self._index("tool", name.decode())].append(key)
            elif key.startswith(session):
                thread, has_end, field = key[len(session) :].partition(b":")
                if has_end and field:
                    fields[thread].append(field)
        for key, model in await self._models(level2, [key for key in keys if key.startswith(llm)]):
            members[self._index("model", model)].append(key)
        now = int(time.time() * 1000)
        commands: list[Command] = []
        for index, missing in members.items():
            pairs = (part for key in missing for part in (now, key))
            commands.append(("ZADD", index, "NX", *pairs))
        for thread, added in fields.items():
            commands += self._index_fields(thread, added)
        return sum(await send(level2, commands)) if commands else 0

    def _index(self, kind: str, value: str) -> str:
        return index_key(self._name, Group(kind, value))

    async def _models(self, level2: GuardedLevel2, keys: list[bytes]) -> list[tuple[bytes, str]]:
        found: list[tuple[bytes, str]] = []
        for start in range(0, len(keys), _READ_COUNT):
            page = keys[start : start + _READ_COUNT]
            for key, value in zip(page, await level2.get_values(page), strict=True):
                try:
                    model = None if value is None else self._model_of(value)
                except UnreadableHereError:
                    self._unreadable_count += 1
                else:
                    if model is not None:
                        found.append((key, model))
        return found

    def _index_fields(self, thread: bytes, fields: list[bytes]) -> list[Command]:
        """Return the commands that add ``fields`` to the hash of ``thread``, an id in its encoded form."""
        windows = f"{self._name}:__tc:thread:".encode() + thread
        prefix = self._prefixes[2] + thread + b":"
        pages = [fields[start : start + _FIELD_COUNT] for start in range(0, len(fields), _FIELD_COUNT)]
        return [
            ("EVAL", note_fields_script(), 1 + len(page), windows, *(prefix + field for field in page), *page)
            for page in pages
        ]
