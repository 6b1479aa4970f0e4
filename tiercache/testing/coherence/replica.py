"""One replica: a cache, and the readers, writers and invalidators that use the cache concurrently."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec.structs import replace

from ...agent_cache import AgentCache
from ...errors import L2UnavailableError
from .database import Database
from .foreign import ForeignClient
from .groups import CLEARS, GROUP_CHANGES, MIXED_CHANGES, GroupChange
from .history import FOREIGN, Change, Event, Failure, Load, Read
from .settings import CROWD, FAILED_LOADS, MissingError, ReplicaSettings
from .subject import Answer, Subject
from .subjects import MIXED_TAGS, SUBJECTS, by_name, group, kv_tier, read_many
from .unflushed_stores import UnflushedStores

__all__ = ["Replica"]

# Readers start reads without waiting for them, so that a slow load does not stop them from reading other keys.
_READER_COUNT: Final = 2
_READER_PAUSE: Final = 0.006
_MAX_READS: Final = 60
# The same for the reader of foreign keys alone: the fate of a change shows only after max_staleness, and to a read in
# each replica.
_FOREIGN_READER_PAUSE: Final = 0.03
_MAX_FOREIGN_READS: Final = 30
# The fraction of callers that cancel their read, of quiet keys and of others; the range of their patience in seconds.
_IMPATIENT_OF_QUIET: Final = 0.7
_IMPATIENT: Final = 0.1
_PATIENCE: Final = (0.005, 0.08)
# Seconds for which the author of a change waits for the new value.
_SOON: Final = 0.03
# The fraction of reads that choose a recently changed or watched subject.
_RECENT: Final = 0.4
# Durations of loads: lowest seconds, highest seconds, weight. A change overtakes most of these loads now and then, and
# a few of them always.
_LOADS: Final = ((0.001, 0.01, 60), (0.01, 0.04, 35), (0.1, 0.4, 5))
# The range of a long load, in units of max_staleness: new callers must not join such a flight up to its end.
_LONG_LOAD: Final = (1.1, 1.6)
# As above, for foreign keys: a change at the beginning of the load must be noticed before its end.
_LONG_FOREIGN_LOAD: Final = (1.5, 2.5)
# The fraction of long loads among the loads of quiet and of foreign keys; little else happens to these keys.
_LONG_LOADS: Final = 0.3
# More loads than a replica makes in a run.
_MOST_LOADS: Final = 200_000
# Keys in one read of a crowd.
_CROWD_KEYS: Final = 250
# The fraction of reads of mixed keys that give a tag.
_TAGGED: Final = 0.7
# Clears of whole tiers happen in one run of so many, by seed, and are this fraction of the changes of groups.
_CLEARS_EVERY: Final = 3
_CLEARS: Final = 0.04
# The pause after a change of a foreign key that shows its fate, in units of max_staleness; the fraction of such pauses
# after a removal, so that mostly another change overtakes the next load, and after other changes.
_FOREIGN_PAUSE: Final = (1.1, 1.7)
_FOREIGN_PAUSES: Final = (0.2, 0.7)


class Replica:
    """The users of one cache. ``record`` receives each of their events when the call has ended.

    Args:
        foreign: Changes the foreign keys of this replica, beside the cache.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        cache: AgentCache,
        database: Database,
        foreign: ForeignClient,
        record: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._load_number = settings.number + settings.life * _MOST_LOADS * settings.count
        self._cache = cache
        self._database = database
        self._foreign = foreign
        self._record = record
        self._recent: deque[Subject] = deque(maxlen=4)
        self._load_times = self._random("loads")
        self._is_calm = False
        self._tagged = self._random("tags")
        self._unflushed = UnflushedStores(cache, record)
        self._reads: set[asyncio.Task[None]] = set()
        self._foreign_reads: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Use the cache until ``stop`` is set; then finish the changes in progress, and cancel the reads."""
        numbered = enumerate(subject for subject in SUBJECTS if subject.is_owned)
        turn = self._settings.seed + self._settings.number
        own = [subject for index, subject in numbered if (index + turn) % self._settings.count == 0]
        async with asyncio.TaskGroup() as tasks:
            readers = [
                tasks.create_task(self._read(tasks, self._random(f"reader {number}")))
                for number in range(_READER_COUNT)
            ]
            readers.append(tasks.create_task(self._read_foreign(tasks, self._random("reader of foreign keys"))))
            tasks.create_task(self._invalidate(stop, self._random("invalidator")))
            for subject in own:
                write = self._write if subject.role == "written" else self._write_foreign
                tasks.create_task(write(stop, self._random(f"writer {subject.name}"), subject))
            await stop.wait()
            for task in (*readers, *self._reads, *self._foreign_reads):
                task.cancel()
        await self._unflushed.flush()

    async def invalidate(self, name: str) -> None:
        """Raise the version of a subject and invalidate the subject in this cache."""
        subject = by_name(name)
        await self._change(subject.invalidation, [subject], lambda _: subject.invalidate(self._cache))

    def watch(self, name: str) -> None:
        """Read a subject more often for a while."""
        self._recent.append(by_name(name))

    async def read_crowd(self, first: int, count: int) -> None:
        """Read ``count`` keys that hold nothing, from the number ``first`` on: the server may track each of them."""
        for number in range(first, first + count, _CROWD_KEYS):
            with suppress(L2UnavailableError):
                await kv_tier(self._cache, CROWD).get_many([str(number + each) for each in range(_CROWD_KEYS)])

    async def read_all(self) -> dict[str, int | None]:
        """Return the version of each subject in the cache, or from a load. Loads take no time from now on."""
        self._is_calm = True
        versions: dict[str, int | None] = {}
        for subject in SUBJECTS:
            answers = await self._read_and_record([subject], lambda subject=subject: self._get_or_load(subject))  # type: ignore[misc]
            versions[subject.name] = subject.split(answers[0].value)[0] if answers else None
        return versions

    # Reading

    async def _read(self, tasks: asyncio.TaskGroup, rng: random.Random) -> None:
        while True:
            if len(self._reads) < _MAX_READS:
                subject = rng.choice(self._recent if self._recent and rng.random() < _RECENT else SUBJECTS)
                is_impatient = rng.random() < (_IMPATIENT_OF_QUIET if subject.is_quiet else _IMPATIENT)
                patience = rng.uniform(*_PATIENCE) if is_impatient else None
                self._start(tasks, self._read_by_chance(subject, rng.random(), patience), self._reads)
            await asyncio.sleep(rng.uniform(0, _READER_PAUSE))

    async def _read_foreign(self, tasks: asyncio.TaskGroup, rng: random.Random) -> None:
        subjects = [subject for subject in SUBJECTS if subject.role == "foreign"]
        while True:
            if len(self._foreign_reads) < _MAX_FOREIGN_READS:
                subject = rng.choice(subjects)
                self._start(tasks, self._read_by_chance(subject, rng.random()), self._foreign_reads)
            await asyncio.sleep(rng.uniform(0, _FOREIGN_READER_PAUSE))

    def _start(self, tasks: asyncio.TaskGroup, read: Coroutine[Any, Any, None], reads: set[asyncio.Task[None]]) -> None:
        """Start a read, which is among ``reads`` until it ends."""
        task = tasks.create_task(read)
        reads.add(task)
        task.add_done_callback(reads.discard)

    async def _read_by_chance(self, subject: Subject, chance: float, patience: float | None = None) -> None:
        """Read a subject by a method; ``chance``, 0 to 1, chooses the method."""
        if subject.is_loaded_alone:
            await self._read_and_record([subject], lambda: self._get_or_load(subject), patience)
        elif subject.tier == "kv" and chance < 0.1:
            subjects = group("kv", subject.role)
            load = None if chance < 0.03 else self._load_many(subject.role)
            await self._read_and_record(subjects, lambda: read_many(self._cache, subjects, load), patience)
        elif chance < 0.2:
            await self._read_and_record([subject], lambda: self._look_up(subject), patience)
        else:
            refresh = chance < 0.24
            await self._read_and_record([subject], lambda: self._get_or_load(subject, refresh=refresh), patience)

    async def _read_and_record(
        self, subjects: Sequence[Subject], read: Callable[[], Awaitable[list[Answer]]], patience: float | None = None
    ) -> list[Answer]:
        """Return and record the answer of ``read`` for each subject, or return an empty list if the read fails."""
        name = self._settings.name
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                answers = await read()
        except L2UnavailableError:
            return []  # Only reads of sessions raise this error; the other tiers load.
        except MissingError as error:
            if len(subjects) > 1:
                return []  # A flight of one of the keys has failed: the error does not say of which.
            # Of this load or a remembered one: it must not be older than a change either.
            answers = [Answer(error.args[0], "failed", f"{subjects[0].tier}.get_or_load")]
        # Any other error is a violation, which the checker must report.
        except Exception as error:
            if patience is None or not isinstance(error, TimeoutError):
                self._fail(subjects, began)
            return []
        ended = time.monotonic()
        for subject, answer in zip(subjects, answers, strict=True):
            version, entry = subject.split(answer.value)
            self._record(
                Read(name, subject.name, began, ended, version, answer.source, answer.method, answer.tag, entry)
            )
        return answers

    async def _look_up(self, subject: Subject) -> list[Answer]:
        return [await subject.look_up(self._cache)]

    async def _get_or_load(self, subject: Subject, *, refresh: bool = False) -> list[Answer]:
        async def load() -> int:
            (version,) = await self._load([subject.name])
            if may_fail and self._load_times.random() < FAILED_LOADS:
                raise MissingError(version)
            return version

        may_fail = self._settings.freshness and subject.tier != "session" and not self._is_calm

        tags = subject.tags
        if subject.role == "mixed" and self._tagged.random() < _TAGGED:
            tags = (self._tagged.choice(MIXED_TAGS),)
        return [await subject.get_or_load(self._cache, load, refresh=refresh, tags=tags)]

    def _load_many(self, role: str) -> Callable[[list[str]], Awaitable[dict[str, int]]]:
        async def load(keys: list[str]) -> dict[str, int]:
            return dict(zip(keys, await self._load([f"kv.{role}.{key}" for key in keys]), strict=True))

        return load

    async def _load(self, names: Sequence[str]) -> list[int]:
        """A loader: reads the versions from the database first, and returns the values after a random time."""
        began = time.monotonic()
        versions = await self._database.versions(names)
        await asyncio.sleep(0 if self._is_calm else self._load_time(names[0]))
        ended = time.monotonic()
        for name, version in zip(names, versions, strict=True):
            self._record(Load(self._settings.name, name, began, ended, version))
        # A number that no other load of any replica has.
        self._load_number += self._settings.count
        return [
            by_name(name).value_of(version, self._load_number) for name, version in zip(names, versions, strict=True)
        ]

    def _load_time(self, name: str) -> float:
        rng, subject = self._load_times, by_name(name)
        if (subject.is_quiet or subject.role == "foreign") and rng.random() < _LONG_LOADS:
            return self._settings.max_staleness * rng.uniform(*(_LONG_LOAD if subject.is_quiet else _LONG_FOREIGN_LOAD))
        ((low, high, _),) = rng.choices(_LOADS, [weight for _, _, weight in _LOADS])
        return rng.uniform(low, high)

    # Changing

    async def _invalidate(self, stop: asyncio.Event, rng: random.Random) -> None:
        # Only invalidations of tags change mixed keys: any other change would take entries away from them.
        single = [subject for subject in SUBJECTS if subject.role in ("hot", "tagged")]
        clears = CLEARS if self._settings.seed % _CLEARS_EVERY == 0 else ()
        while not stop.is_set():
            if rng.random() < 0.25:
                changes = clears if clears and rng.random() < _CLEARS else (*GROUP_CHANGES, rng.choice(MIXED_CHANGES))
                await self._change_group(rng.choice(changes))
            else:
                await self.invalidate(rng.choice(single).name)
            await asyncio.sleep(rng.uniform(0.005, 0.05))

    async def _change_group(self, change: GroupChange) -> None:
        await self._change(change.method, change.subjects, lambda _: change.apply(self._cache), tag=change.tag)

    async def _write(self, stop: asyncio.Event, rng: random.Random, subject: Subject) -> None:
        while not stop.is_set():
            chance = rng.random()
            if chance < 0.1:
                await self.invalidate(subject.name)
            elif chance < 0.15:
                await self._change(subject.group_method, [subject], lambda _: subject.remove_group(self._cache))
            elif chance < 0.2 and subject.tags:
                await self._change("invalidate_tag", [subject], lambda _: self._cache.invalidate_tag(*subject.tags))
            else:
                await self._store(subject)
                if rng.random() < 0.5:
                    await self._unflushed.flush()
            # A long pause shows the fate of the last change.
            await asyncio.sleep(rng.uniform(0.005, 0.1) if rng.random() < 0.8 else rng.uniform(0.2, 0.4))

    async def _write_foreign(self, stop: asyncio.Event, rng: random.Random, subject: Subject) -> None:
        # A store that was not acknowledged may arrive late, behind a change by the other software: until the next one
        # is acknowledged, the cache alone changes the key.
        is_settled = True
        while not stop.is_set():
            chance = rng.random()
            is_removal = chance < 0.3
            if chance < 0.1:
                await self.invalidate(subject.name)
            elif is_settled and chance < 0.75:
                await self._change_beside(subject, removes=is_removal, keeps_ttl=chance < 0.4)
            else:
                lost_count = self._unflushed.lost_count(subject.tier)
                is_settled = await self._store(subject)
                await self._unflushed.flush()
                is_settled = is_settled and self._unflushed.lost_count(subject.tier) == lost_count
            is_long = rng.random() < _FOREIGN_PAUSES[not is_removal]
            await asyncio.sleep(
                self._settings.max_staleness * rng.uniform(*_FOREIGN_PAUSE) if is_long else rng.uniform(0.005, 0.1)
            )

    async def _change_beside(self, subject: Subject, *, removes: bool, keeps_ttl: bool) -> None:
        """Let the other software change the key of a subject."""
        (version,) = await self._database.raise_versions([subject.name])
        began = time.monotonic()
        if removes:
            method, is_acked = "DEL", await self._foreign.delete(subject)
        else:
            method, is_acked = "SET", await self._foreign.set(subject, version, keeps_ttl=keeps_ttl)
        acked = time.monotonic() if is_acked else None
        self._record(Change(FOREIGN, subject.name, version, method, began, acked, method == "SET"))
        await self._read_changed([subject])

    async def _store(self, subject: Subject) -> bool:
        """Store a new version of a subject; return whether the call of the cache returned."""
        is_behind = self._settings.writes_behind and subject.tier in ("llm", "tool")
        lost_count = self._unflushed.lost_count(subject.tier) if is_behind else None
        return await self._change(
            f"{subject.tier}.store",
            [subject],
            lambda version: subject.store(self._cache, version),
            stored=True,
            lost_count=lost_count,
        )

    async def _change(
        self,
        method: str,
        subjects: Sequence[Subject],
        change: Callable[[int], Awaitable[object]],
        *,
        stored: bool = False,
        tag: str | None = None,
        lost_count: int | None = None,
    ) -> bool:
        """Raise the versions of ``subjects``, change them in the cache, and read them; return whether ``change`` did.

        Args:
            tag: The change covers only entries with this tag; None: it covers every entry.
            lost_count: For a write-behind store: how many stores the cache has lost before.
        """
        versions = await self._database.raise_versions([subject.name for subject in subjects])
        began = time.monotonic()
        returned = None
        try:
            await change(versions[0])
            returned = time.monotonic()
        except L2UnavailableError:
            pass
        # Any other error is a violation, as for reads.
        except Exception:
            self._fail(subjects, began)
        name = self._settings.name
        for subject, version in zip(subjects, versions, strict=True):
            event = Change(name, subject.name, version, method, began, None, stored, tag=tag)
            if lost_count is not None and returned is not None:
                self._unflushed.add(replace(event, queued=returned), subject.tier, lost_count)
            else:
                self._record(replace(event, acked=returned))
        await self._read_changed(subjects)
        return returned is not None

    async def _read_changed(self, subjects: Sequence[Subject]) -> None:
        self._recent.extend(subjects)
        for subject in subjects:
            await self._read_and_record([subject], lambda subject=subject: self._look_up(subject))  # type: ignore[misc]
            await self._read_and_record([subject], lambda subject=subject: self._get_or_load(subject), _SOON)  # type: ignore[misc]

    def _fail(self, subjects: Sequence[Subject], began: float) -> None:
        keys = ", ".join(subject.name for subject in subjects)
        self._record(Failure(self._settings.name, keys, began, traceback.format_exc()))

    def _random(self, use: str) -> random.Random:
        """Return a random generator for one user, so that its choices do not depend on the timing of other users."""
        return random.Random(f"{self._settings.seed}/{self._settings.number}/{self._settings.life}/{use}")
