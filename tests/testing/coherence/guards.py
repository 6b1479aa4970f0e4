"""The guards of coherence: for each a patch that removes the guard, and the fault that shows its absence.

``python -m tests.testing.coherence.guards`` prints a table of the violations that the checker finds without each guard.
A patch applies to the caches that this process makes after the patch, until the monkeypatch is undone. Some guards have
two halves, and one half alone prevents nearly all violations: the patch of such a guard removes both halves.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import msgspec
import pytest

from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.pending_invalidations import PendingInvalidations
from tiercache.engine.entries.freshness import KeptEntry
from tiercache.engine.level2 import write_pipe
from tiercache.engine.level2.announcement import Announcement, Received, Unreadable
from tiercache.engine.level2.write_behind import WriteBehind
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Announce
from tiercache.engine.memory.fences import Fences
from tiercache.engine.memory.l1 import L1
from tiercache.engine.operations import invalidate
from tiercache.engine.operations.change import GroupChange, KeyChange
from tiercache.engine.operations.load import Load
from tiercache.engine.operations.store import StoreBehindChange
from tiercache.engine.operations.tagging import Tagging
from tiercache.options import L1Options
from tiercache.stores.valkey import backplane, commands, messages
from tiercache.testing.coherence import Outcome, RunSettings, run, run_once, settings
from tiercache.testing.coherence.checks import KINDS
from tiercache.testing.coherence.settings import Tracking, Writes

from . import interest_guards

__all__ = ["GUARDS", "Guard", "Patch", "run_patched"]

Patch: TypeAlias = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Guard:
    """A guard and the patch that removes it.

    Attributes:
        remove: The patch that removes the guard.
        kinds: The kinds of violation without the guard; a run may show any of them.
        fault: The fault under which the violations appear.
        also: A patch that adds a further fault, with the guard and without it.
        writes: Which stores are write-behind stores.
        freshness: Whether the caches serve stale values and remember errors.
        tracking: The kind of tracking of the caches.
        seconds: Seconds of the load.
    """

    name: str
    remove: Patch
    kinds: tuple[str, ...]
    fault: str = "latency"
    also: Patch | None = None
    writes: Writes = "both"
    freshness: Literal["on", "off"] = "off"
    tracking: Tracking = "off"
    seconds: float = 1.5

    @property
    def options(self) -> dict[str, Any]:
        """The options of ``RunSettings`` that the guard needs."""
        return {
            "writes": self.writes,
            "freshness": self.freshness,
            "tracking": self.tracking,
            "seconds": self.seconds,
        }

    @property
    def circumstances(self) -> tuple[str, Patch | None, Tracking]:
        """The fault, the further fault, and the kind of tracking under which the violations appear."""
        return self.fault, self.also, self.tracking

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Remove the guard and add its further fault."""
        self.remove(monkeypatch)
        if self.also is not None:
            self.also(monkeypatch)


async def run_patched(patch: Patch | None, fault: str, seed: int, *, patience: float = 3.0, **options: Any) -> Outcome:
    """Do one short run with ``patch``; all replicas live in this process.

    Unless ``options`` say otherwise, the run has no tracking: through tracking the server announces most changes a
    second time, which would hide the absence of most guards.

    Args:
        patience: Seconds in which replicas may still disagree at the end of the run.
        options: Options of ``RunSettings`` that replace the options of this function.
    """
    usual: dict[str, Any] = {"seconds": 1.5, "replicas": 3, "max_staleness": 0.5, "tracking": "off", "freshness": "off"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(run, "_CALM_SECONDS", patience)
        if patch is not None:
            patch(monkeypatch)
        return await run_once(RunSettings(fault=fault, seed=seed, processes=0, **{**usual, **options}))


def _keep_what_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a received change drop the entry in L1, but not break the fences of reads and loads in progress.

    The other half is removed too: to drop a loaded value from L1 if Valkey refused to store the value.
    """
    apply = Coherence.apply

    def apply_to_l1(coherence: Coherence, event: Any) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Fences, "break_key", lambda fences, key: None)
            meanwhile.setattr(Fences, "break_group", lambda fences, group: None)
            apply(coherence, event)

    monkeypatch.setattr(Coherence, "apply", apply_to_l1)
    monkeypatch.setattr(L1, "drop_entry", lambda l1, key, entry: None)


def _load_without_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the value of every load in Valkey, even if another process changed the key during the load."""
    _change_options(monkeypatch, lease=False)


def _change_options(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the options of every tier of the replicas."""
    monkeypatch.setattr(settings, "OPTIONS", dataclasses.replace(settings.OPTIONS, **changes))


def _drop_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop a key before its change and not after the change.

    The other half is removed too: not to keep a value that is read while a write of its key is in flight.
    """

    def close_fence(change: KeyChange, outcome: object) -> None:
        assert change.fence is not None
        change.runtime.fences.close(change.fence)
        change.runtime.l2.leases.wake(change.key)

    monkeypatch.setattr(KeyChange, "done", close_fence)
    monkeypatch.setattr(WritePipe, "is_writing", lambda pipe, key: False)


def _drop_groups_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop a group before its invalidation, and neither the group nor the deleted keys after it."""
    done, init = GroupChange.done, invalidate._Deletes.__init__

    def done_without_drop(change: GroupChange, outcome: object) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(GroupChange, "_drop", lambda change: 0)
            done(change, outcome)

    def init_without_l1(deletes: Any, runtime: Any, pipe: Any) -> None:
        init(deletes, SimpleNamespace(l1=SimpleNamespace(drop=lambda key: False)), pipe)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupChange, "done", done_without_drop)
    monkeypatch.setattr(invalidate._Deletes, "__init__", init_without_l1)


def _believe_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust L1 entries and join flights for ever, even if no message arrives."""
    make = L1.__init__

    def make_trusting(l1: L1, options: L1Options, *, max_staleness: float) -> None:
        make(l1, options, max_staleness=math.inf)

    monkeypatch.setattr(L1, "__init__", make_trusting)


def _trust_after_reconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep L1 after a reconnect, although changes may have been announced before it."""

    def subscribed(coherence: Coherence, number: int) -> None:
        coherence._number = number
        coherence._is_catching_up = True

    monkeypatch.setattr(Coherence, "subscribed", subscribed)


def _publish_before_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce a change of keys first, and make the change afterwards."""

    async def announce_and_write(pipe: WritePipe, batch: Sequence[Any]) -> list[Any]:
        writes = [queued.write for queued in batch]
        keys = tuple(dict.fromkeys(key for write in writes for key in write_pipe._announced_keys(write)))
        if keys:
            await pipe._level2.apply([Announce(Announcement(keys=keys))])
        return await pipe._level2.apply(writes)

    monkeypatch.setattr(WritePipe, "_apply", announce_and_write)


def _pass_over_the_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat an unreadable message as an announcement of no change, and count its number."""
    decode = messages.decode

    def decode_or_pass_over(message: bytes) -> Received | Unreadable:
        event = decode(message)
        if isinstance(event, Received):
            return event
        body = msgspec.json.decode(message)
        return Received(Announcement(), body["o"], body["s"])

    monkeypatch.setattr(backplane, "decode", decode_or_pass_over)


def _speak_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first replica that announces a change use a message form that the other replicas do not know yet.

    This patch removes no guard, but adds the fault that one guard is for. The sequence numbers keep their place in the
    message, so that no gap reveals the fault.
    """
    encode = messages.encode
    newer: list[str] = []

    def encode_anew(announcement: Announcement, origin: str) -> tuple[bytes, bytes]:
        if not newer:
            newer.append(origin)
        if origin not in newer:
            return encode(announcement, origin)
        said = {"o": origin, "said": dataclasses.asdict(announcement)}
        return b'{"v":2,"s":', b"," + msgspec.json.encode(said)[1:]

    monkeypatch.setattr(commands, "encode", encode_anew)


def _read_past_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer reads of a key from Valkey while a write-behind store of the key is queued.

    The other half is removed too: to put the queued value into L1.
    """

    async def find(behind: WriteBehind, key: str) -> None:
        return None

    def begin(change: StoreBehindChange) -> int:
        count = KeyChange.begin(change)
        assert change.fence is not None
        change.runtime.l2.behind.add(change.entry, change.fence)
        return count

    monkeypatch.setattr(WriteBehind, "find", find)
    monkeypatch.setattr(StoreBehindChange, "begin", begin)


def _keep_what_a_lost_store_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the older value in Valkey when a write-behind store did not reach Valkey."""
    monkeypatch.setattr(PendingInvalidations, "remove", lambda pending, key, error: None)


def _keep_no_l1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every read ask Valkey: during an outage L1 gets the values that are loaded, and hides a lost store."""
    _change_options(monkeypatch, l1=False)


def _repeat_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not repeat an unacknowledged invalidation of a key, a group or a tag."""
    monkeypatch.setattr(PendingInvalidations, "note", lambda pending, keys, outcome: None)
    monkeypatch.setattr(PendingInvalidations, "note_group", lambda pending, group, repeat, **options: None)


def _index_no_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add no key to the index of a tag. In L1 the entries have their tags."""
    make_batch = commands.WriteCommands.batch

    def without_tags(write: Any) -> Any:
        indexes = tuple(index for index in getattr(write, "indexes", ()) if ":idx:tag:" not in index)
        return msgspec.structs.replace(write, indexes=indexes) if getattr(write, "indexes", ()) else write

    def batch_without_tags(writer: commands.WriteCommands, writes: Sequence[Any]) -> commands.Batch:
        return make_batch(writer, [without_tags(write) for write in writes])

    monkeypatch.setattr(commands.WriteCommands, "batch", batch_without_tags)


def _take_hits_without_their_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a hit without giving the entry the tags of the call."""

    async def holds(tagging: Tagging, lookup: object) -> bool:
        return True

    monkeypatch.setattr(Tagging, "holds", holds)


def _trust_evicted_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove only the entries that an index lists, also where the server may have evicted the index."""

    async def sweep(removal: invalidate._GroupRemoval) -> None:
        return None

    monkeypatch.setattr(invalidate._GroupRemoval, "_sweep", sweep)


def _keep_stale_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let L1 keep a copy past its TTL, and a remembered error, when the key is changed."""
    drop = L1.drop

    def drop_fresh(l1: L1, key: str) -> bool:
        entry = l1.glance(key)
        is_kept = isinstance(entry, KeptEntry) and time.monotonic() >= min(entry.expires_at, entry.deadline)
        return not is_kept and drop(l1, key)

    monkeypatch.setattr(L1, "drop", drop_fresh)


def _remember_overtaken_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember the error of a load that a change has overtaken."""

    def remember(load: Load, error: Exception) -> None:
        freshness, fence = load.call.rules.freshness, load.flight.fence
        assert freshness is not None
        failed = freshness.failed(error, fence.groups, began=fence.began, now=time.monotonic())
        if failed is not None:
            load._runtime.l1.put(load.call.key, failed)

    monkeypatch.setattr(Load, "_remember", remember)


def _of_interest(name: str, remove: Patch, fault: str, *, seconds: float = 1.5) -> Guard:
    """Return a guard of tracking by interest."""
    return Guard(name, remove, ("bound",), fault, tracking="interest", seconds=seconds)


GUARDS = [
    Guard("detach by a received message", _keep_what_is_overtaken, ("bound",)),
    Guard("lease", _load_without_lease, ("own", "bound", "l2")),
    Guard("second drop of a key", _drop_keys_once, ("own",)),
    Guard("second drop of a group", _drop_groups_once, ("own",)),
    Guard("trust bound", _believe_for_ever, ("bound",), "bus_stall"),
    Guard("distrust on reconnect", _trust_after_reconnecting, ("bound",), "bus_kill"),
    Guard("publish after write", _publish_before_writing, ("bound",)),
    Guard("distrust of an unknown message", _pass_over_the_unknown, ("bound",), "none", _speak_a_newer_version),
    Guard("queued stores answer reads", _read_past_the_queue, ("own",), writes="behind"),
    Guard(
        "removal after a lost store", _keep_what_a_lost_store_replaces, ("own",), "refuse", _keep_no_l1, writes="behind"
    ),
    Guard("repetition of an invalidation", _repeat_nothing, ("agree",), "command_cut"),
    Guard("index of a tag", _index_no_tags, ("own", "l2")),
    Guard("tags of hits", _take_hits_without_their_tags, ("own", "bound", "l2")),
    Guard("drop of stale copies", _keep_stale_copies, ("own", "bound"), freshness="on"),
    Guard("fence of remembered errors", _remember_overtaken_errors, ("own", "bound"), freshness="on"),
    Guard("sweep of a server that evicts", _trust_evicted_indexes, ("own", "bound", "l2"), "evict"),
    _of_interest("read behind a lease", interest_guards.take_leases_without_a_read, "none", seconds=3.0),
    _of_interest("read behind a store", interest_guards.store_without_a_read, "none"),
    _of_interest("read behind a slide", interest_guards.slide_without_a_read, "none"),
    _of_interest("distrust after lost writes", interest_guards.trust_a_new_connection_of_the_writes, "writer_kill"),
    _of_interest("Track before PING", interest_guards.ping_without_tracking, "writer_loss"),
    _of_interest("room in the table", interest_guards.believe_in_a_full_table, "small_table"),
]


def main(seed_count: int) -> None:
    """Print the findings of the checker without each guard, and then with all guards under the same faults."""
    logging.getLogger("tiercache").setLevel(logging.ERROR)
    print(f"{'guard removed':<31} {'fault':<19} {'seeds':>5} {'found':>5} {'reads':>7} {'violations':>10}")
    for guard in GUARDS:
        _print_line(guard, seed_count)
    for fault, also, tracking in dict.fromkeys(guard.circumstances for guard in GUARDS):
        _print_line(Guard("none", lambda _: None, KINDS, fault, also, tracking=tracking), seed_count, patience=3.0)


def _print_line(guard: Guard, seed_count: int, *, patience: float = 0.2) -> None:
    seeds = range(1, seed_count + 1)
    outcomes = [
        asyncio.run(run_patched(guard.apply, guard.fault, seed, patience=patience, **guard.options)) for seed in seeds
    ]
    found = [[violation.kind for violation in outcome.violations] for outcome in outcomes]
    # Runs with a violation of a kind that belongs to the guard.
    found_count = sum(any(kind in guard.kinds for kind in kinds) for kinds in found)
    counts = Counter(kind for kinds in found for kind in kinds)
    shown = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if kind in counts)
    reads = sum(len(outcome.history.reads) for outcome in outcomes)
    fault = guard.fault if guard.also is None else f"{guard.fault} {guard.also.__name__}"
    line = f"{guard.name:<31} {fault:<19} {seed_count:>5} {found_count:>5} {reads:>7} {counts.total():>10}  {shown}"
    print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
