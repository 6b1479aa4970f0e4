"""Reindexing: finds out whether the indexes of a cache are complete, and completes them.

The indexes are complete if there were no entries when the cache was first opened. Otherwise a process scans every key
and adds the missing entries. Before the scan the process makes a claim, and it may set the flag only if the claim still
exists afterwards: a process that overwrites another software's marker deletes all claims, because that software may
have written entries during the scan. Entries that tiercache writes during the scan are no problem: they are in their
index before they are anywhere else.

The tags of an entry stand in the entry itself. Only an eviction makes the indexes of tags incomplete: while the server
may evict, a flag records it, and only a reindexing under a policy without eviction removes that flag.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from ..engine.entries.entry import Group
from ..engine.entries.rules import UnreadableHereError
from ..engine.level2.breaker import GuardedLevel2
from ..engine.level2.eviction import eviction_policy_in, evicts
from ..engine.level2.replies import send
from ..engine.level2.writes import INDEX_MARGIN, Command
from ..engine.memory.pins import PINS
from ..engine.operations.invalidate import is_text
from ..errors import TierCacheError
from ..log import CacheLog
from ..text import LONGEST_NAME_BYTES
from .names import IndexNames, evicted_key, index_key, kv_prefixes
from .scripts import members_script, note_fields_script, register_script

__all__ = ["EntryReader", "Reindex"]

_SCAN_COUNT: Final = 1000
# Values read, and session fields indexed, in one exchange.
_READ_COUNT: Final = 50
_FIELD_COUNT: Final = 250
# Seconds that opening a cache may spend on the scan; enough for about 300,000 keys on loopback.
_LOOK_SECONDS: Final = 0.1
# Lifetime of a claim. The claim of a dead process does no harm until then.
_CLAIM_SECONDS: Final = 24 * 3600


class EntryReader(Protocol):
    """Reads from the bytes of entries to which indexes they belong.

    Attributes:
        head_bytes: Bytes at the beginning of an entry that certainly contain its tags.
    """

    head_bytes: int

    def model_of(self, data: bytes, /) -> str | None:
        """Return the model of an llm entry, or None if the bytes are no entry.

        Raises:
            UnreadableHereError: Only other processes can read the entry.
        """
        ...

    def tags_of(self, head: bytes) -> tuple[str, ...] | None:
        """Return the tags of an entry from its first bytes, or None if the entry has more tags than it lists."""
        ...


class Reindex:
    """The reindexing of the cache ``name`` by one process.

    Args:
        reader: Reads the models and tags of entries.
        log: The cache's log.
    """

    def __init__(self, name: str, reader: EntryReader, log: CacheLog) -> None:
        self._name = name
        self._log = log
        self._reader = reader
        self._unreadable_count = 0
        # An entry has more tags than it lists: no reindexing can complete the indexes of its tags.
        self._has_unlisted_tags = False
        self._names = IndexNames.of(name)
        self._evicted = evicted_key(name)
        self._prefixes = tuple(f"{name}:{tier}:".encode() for tier in ("llm", "tool", "session"))
        self._kv_prefixes = tuple(prefix.encode() for prefix in kv_prefixes(name))
        self._pin_prefix = f"{name}:__tc:pin:".encode()

    async def begin(self, level2: GuardedLevel2) -> bool:
        """Mark the indexes as complete if there is no entry yet; return False if the scan took too long.

        Never raises a TierCacheError: after an error the indexes count as incomplete.
        """
        try:
            flag, info = await level2.execute([("EXISTS", self._names.flag), ("INFO", "memory")])
            if flag != 0 or evicts(eviction_policy_in(info)):
                return True
            claim = await self._claim(level2)
            give_up_at = asyncio.get_running_loop().time() + _LOOK_SECONDS
            async with aclosing(self._entries(level2, self._prefixes)) as pages:
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
        self._has_unlisted_tags = False
        async for keys in self._entries(level2, (*self._prefixes, *self._kv_prefixes, self._pin_prefix)):
            count += await self.add(level2, keys)
        (info,) = await level2.execute([("INFO", "memory")])
        if self._unreadable_count:
            self._log.warning(
                "the indexes count as incomplete: this process cannot read %d entries that other processes may be able "
                "to read",
                self._unreadable_count,
            )
        elif evicts(eviction_policy_in(info)):
            self._log.warning("the indexes count as incomplete: the maxmemory-policy of Valkey may evict them")
        elif not await self._finish(level2, claim, has_tags_of_all=not self._has_unlisted_tags):
            self._log.warning("the indexes count as incomplete: other software uses this name")
        return count

    async def watch(self, level2: GuardedLevel2) -> None:
        """Mark the indexes as incomplete if the server may evict one of them. Raises the errors of ``run``."""
        (info,) = await level2.execute([("INFO", "memory")])
        # If the server does not report its policy, the flag stays, because nothing shows an eviction. Each operation
        # treats such a server as one that evicts.
        policy = eviction_policy_in(info)
        if policy is not None and evicts(policy):
            await level2.execute([("DEL", self._names.flag, self._names.claims), ("SET", self._evicted, 1)])

    async def _claim(self, level2: GuardedLevel2) -> str:
        claim = secrets.token_hex(8)
        claims = self._names.claims
        await send(level2, [("SADD", claims, claim), ("EXPIRE", claims, _CLAIM_SECONDS)])
        return claim

    async def _finish(self, level2: GuardedLevel2, claim: str, *, has_tags_of_all: bool = False) -> bool:
        """Mark the indexes as complete if the claim still stands; return whether they are.

        Args:
            has_tags_of_all: Whether the indexes of tags have every entry now, those of the kv tiers too.
        """
        claimed: Command = ("SISMEMBER", self._names.claims, claim)
        is_claimed, reply = await level2.execute([claimed, self._names.command("finish", self._name, claim)])
        if is_claimed == 1 and has_tags_of_all:
            # Other software writes no tags, and a server that evicts again gets the flag back within half a minute.
            await level2.execute([("DEL", self._evicted)])
        return bool(reply == 1)

    async def _entries(self, level2: GuardedLevel2, prefixes: tuple[bytes, ...]) -> AsyncGenerator[list[bytes], None]:
        """Yield the keys that begin with any of ``prefixes``, in pages. Many pages are empty."""
        # One SCAN finds the entries of all tiers, and skips most other keys of the cache. A cache's name contains no
        # character that a pattern must escape.
        pattern = f"{self._name}:[lts_]*"
        cursor: Any = 0
        while True:
            ((cursor, keys),) = await send(level2, [("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
            yield [key for key in keys if key.startswith(prefixes)]
            if int(cursor) == 0:
                return

    async def add(self, level2: GuardedLevel2, keys: Sequence[bytes]) -> int:
        """Add the entries under ``keys`` to their indexes; return how many members the indexes did not have."""
        members, fields = self._named_members(keys)
        llm, _, session = self._prefixes
        for key, model in await self._models(level2, [key for key in keys if key.startswith(llm)]):
            members[self._index("model", model)].append(key)
        for key, tags in await self._tags(level2, [key for key in keys if not key.startswith(session)]):
            for tag in tags:
                members[self._index("tag", tag)].append(key)
        lives = await self._lives(level2, list({key for added in members.values() for key in added}))
        commands: list[Command] = []
        for index, added in members.items():
            living = [key for key in added if key in lives]
            if living:
                life = 0 if any(lives[key] == 0 for key in living) else max(lives[key] for key in living)
                commands.append(("EVAL", members_script("add"), 1, index, life, *living))
                commands.append(("EVAL", register_script("list"), 1, f"{self._name}:__tc:indexes", life, index))
        for thread, names in fields.items():
            commands += self._index_fields(thread, names)
        return sum(await send(level2, commands)) if commands else 0

    def _named_members(self, keys: Sequence[bytes]) -> tuple[dict[str, list[bytes]], dict[bytes, list[bytes]]]:
        """Return the members of the indexes of tools and pins, and the fields of threads, by the names of ``keys``."""
        _, tool, session = self._prefixes
        members: dict[str, list[bytes]] = defaultdict(list)
        fields: dict[bytes, list[bytes]] = defaultdict(list)
        for key in keys:
            if key.startswith(tool):
                name, has_end, _ = key[len(tool) :].partition(b":")
                if has_end and is_text(name) and len(name) <= LONGEST_NAME_BYTES:
                    members[self._index("tool", name.decode())].append(key)
            elif key.startswith(self._pin_prefix):
                members[index_key(self._name, PINS)].append(key)
            elif key.startswith(session):
                thread, has_end, field = key[len(session) :].partition(b":")
                if has_end and field:
                    fields[thread].append(field)
        return members, fields

    def _index(self, kind: str, value: str) -> str:
        return index_key(self._name, Group(kind, value))

    async def _models(self, level2: GuardedLevel2, keys: list[bytes]) -> list[tuple[bytes, str]]:
        found: list[tuple[bytes, str]] = []
        for start in range(0, len(keys), _READ_COUNT):
            page = keys[start : start + _READ_COUNT]
            for key, value in zip(page, await level2.get_values(page), strict=True):
                try:
                    model = None if value is None else self._reader.model_of(value)
                except UnreadableHereError:
                    self._unreadable_count += 1
                else:
                    # No call can name a longer model.
                    if model is not None and len(model.encode()) <= LONGEST_NAME_BYTES:
                        found.append((key, model))
        return found

    async def _tags(self, level2: GuardedLevel2, keys: list[bytes]) -> list[tuple[bytes, tuple[str, ...]]]:
        found: list[tuple[bytes, tuple[str, ...]]] = []
        for start in range(0, len(keys), _READ_COUNT):
            page = keys[start : start + _READ_COUNT]
            heads = await level2.execute([("GETRANGE", key, 0, self._reader.head_bytes) for key in page])
            for key, head in zip(page, heads, strict=True):
                if isinstance(head, Exception) and "WRONGTYPE" not in str(head):
                    raise head
                # A key of another type than string is no entry.
                tags = self._reader.tags_of(head) if isinstance(head, bytes) else ()
                if tags is None:
                    self._has_unlisted_tags = True
                elif tags:
                    found.append((key, tags))
        return found

    async def _lives(self, level2: GuardedLevel2, keys: list[bytes]) -> dict[bytes, int]:
        """Return the milliseconds that the indexes of each existing key must live; 0 for no expiry."""
        lives: dict[bytes, int] = {}
        for start in range(0, len(keys), _FIELD_COUNT):
            page = keys[start : start + _FIELD_COUNT]
            replies = await send(level2, [("PTTL", key) for key in page])
            margin = round(INDEX_MARGIN * 1000)
            lives.update(
                {key: 0 if ms == -1 else ms + margin for key, ms in zip(page, replies, strict=True) if ms != -2}
            )
        return lives

    def _index_fields(self, thread: bytes, fields: list[bytes]) -> list[Command]:
        """Return the commands that add ``fields`` to the hash of ``thread``, an id in its encoded form."""
        windows = f"{self._name}:__tc:thread:".encode() + thread
        prefix = self._prefixes[2] + thread + b":"
        pages = [fields[start : start + _FIELD_COUNT] for start in range(0, len(fields), _FIELD_COUNT)]
        return [
            ("EVAL", note_fields_script(), 1 + len(page), windows, *(prefix + field for field in page), *page)
            for page in pages
        ]
