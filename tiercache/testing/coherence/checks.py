"""The guarantees of coherence, as plain functions over a history.

own     A read never returns a version older than a change that its own replica had completed before the read began. A
        write-behind store is complete for its own replica when it returns, and for all others when a flush of the
        writes has returned and the store has reached Valkey.
bound   A read never returns a version older than a change that any replica had completed more than ``max_staleness``
        before the read began. Changes by other software count only for replicas to which Valkey reports them,
        and not for copies past their TTL.
l2      Valkey never holds a version older than a change that was completed before the read of Valkey began.
agree   After the load and the fault have ended, every replica returns the version in Valkey. This version is at least
        as new as the last completed change, and as the last invalidation, because an unanswered invalidation is
        repeated.
error   No call raises any error except L2UnavailableError.

An invalidation of a tag completes the change of every entry that had the tag when it began.

Apart from this, a change that raised guarantees nothing. The checks compare moments without any tolerance: a change
counts from the moment after its call returned, and a read from the moment before its call began.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .history import FOREIGN, Change, History, Read
from .tag_floors import TagFloors

__all__ = [
    "KINDS",
    "FinalState",
    "Violation",
    "check_agreement",
    "check_all",
    "check_bound",
    "check_errors",
    "check_own",
    "check_valkey",
]

KINDS = ("own", "bound", "l2", "agree", "error")

G = TypeVar("G", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken guarantee.

    Attributes:
        kind: The guarantee, one of ``KINDS``.
        began, ended: The part of the history that shows the cause.
        version: The wrong version, or None if no version is wrong.
    """

    kind: str
    key: str
    text: str
    began: float
    ended: float
    version: int | None = None


@dataclass(frozen=True, slots=True)
class FinalState:
    """The versions in all replicas and in Valkey after the load and the fault have ended.

    Attributes:
        by_replica: By replica, the version of each key on which the replica must agree, or None if it has no entry.
        in_valkey: The version of each key in Valkey, or None if Valkey has no entry.
        due: The least version that a key must have, because unacknowledged invalidations are repeated.
    """

    at: float
    by_replica: Mapping[str, Mapping[str, int | None]]
    in_valkey: Mapping[str, int | None]
    due: Mapping[str, int] = field(default_factory=dict)


class Floors:
    """The newest acknowledged change of one key at each moment.

    Args:
        changes: Changes of one key. Those that cover only entries with tags do not count: see ``TagFloors``.
        own: Whether the floors are for the reads of the replica that made the changes. It sees a queued store at once.
    """

    def __init__(self, changes: Iterable[Change], *, own: bool = False) -> None:
        moments = ((change.seen_from if own else change.acked, change) for change in changes if change.tag is None)
        acked = [(moment, change) for moment, change in moments if moment is not None]
        acked.sort(key=lambda pair: pair[0])
        self._moments = [moment for moment, _ in acked]
        self._newest: list[Change] = []
        for _, change in acked:
            newest = self._newest[-1] if self._newest else change
            self._newest.append(change if change.version > newest.version else newest)

    def before(self, moment: float) -> Change | None:
        """Return the change of the highest version among those acknowledged before ``moment``."""
        count = bisect_left(self._moments, moment)
        return self._newest[count - 1] if count else None


def check_all(history: History, max_staleness: float) -> list[Violation]:
    """Return all violations except those of ``check_agreement``, in their order in time."""
    found = [
        *check_own(history),
        *check_bound(history, max_staleness),
        *check_valkey(history),
        *check_errors(history),
    ]
    return sorted(found, key=lambda violation: violation.ended)


def check_own(history: History) -> list[Violation]:
    """Return the reads whose version is older than an earlier change by the same replica."""
    floors = _floors(history, lambda change: (change.replica, change.key), own=True)
    tag_floors = TagFloors(history)
    found: list[Violation] = []
    for read in history.reads:
        if read.version is None:
            continue
        floor = floors[read.replica, read.key].before(read.began)
        if floor is None or read.version >= floor.version:
            floor = tag_floors.covering(read, read.began, replica=read.replica)
        if floor is not None:
            found.append(_too_old("own", read, floor))
    return found


def check_bound(history: History, max_staleness: float) -> list[Violation]:
    """Return the reads whose version is older than a change made more than ``max_staleness`` seconds before."""
    floors = _floors(history, lambda change: change.key)
    # Changes by other software promise less: see the module.
    announced_floors = _floors(history, lambda change: change.key, foreign=False)
    tag_floors = TagFloors(history)
    found: list[Violation] = []
    for read in history.reads:
        if read.version is None:
            continue
        is_told = read.replica not in history.untracked and read.source != "stale"
        floor = (floors if is_told else announced_floors)[read.key].before(read.began - max_staleness)
        if floor is None or read.version >= floor.version:
            floor = tag_floors.covering(read, read.began - max_staleness)
        if floor is not None:
            found.append(_too_old("bound", read, floor))
    return found


def check_valkey(history: History) -> list[Violation]:
    """Return the samples of Valkey whose version is older than a change acknowledged before.

    There are two exceptions. 1. Changes before a restart that emptied Valkey do not count. 2. A version from an
    unacknowledged store is no violation, because that store may arrive late.
    """
    forgot_at = sorted(restart.ended for restart in history.restarts if restart.forgot)
    floors: dict[tuple[str, int], Floors] = {}
    unacknowledged = {
        (key, change.version)
        for key, changes in history.changes.items()
        for change in changes
        if change.stored and change.acked is None
    }
    tag_floors = TagFloors(history)
    found: list[Violation] = []
    for sample in history.samples:
        if sample.version is None or (sample.key, sample.version) in unacknowledged:
            continue
        # Restarts that emptied Valkey divide the history into lives. A change in flight at a restart belongs to none of
        # the lives.
        life = bisect_left(forgot_at, sample.began)
        since = forgot_at[life - 1] if life else -1.0
        if (sample.key, life) not in floors:
            known = (change for change in history.changes[sample.key] if change.began > since)
            floors[sample.key, life] = Floors(known)
        floor = floors[sample.key, life].before(sample.began)
        if floor is None or sample.version >= floor.version:
            floor = tag_floors.covering(sample, sample.began)
        if floor is not None:
            text = f"Valkey holds version {sample.version}, older than {_named(floor)}"
            found.append(Violation("l2", sample.key, text, floor.began, sample.began, sample.version))
    return found


def check_errors(history: History) -> list[Violation]:
    """Return the calls that raised another error than L2UnavailableError."""
    return [
        Violation("error", failure.key, f"{failure.replica}: {failure.text}", failure.began, failure.began)
        for failure in history.failures
    ]


def check_agreement(history: History, final: FinalState) -> list[Violation]:
    """Return the keys on which replicas and Valkey disagree, or agree on a version that is too old.

    There are two exceptions. 1. A missing entry in Valkey agrees with every version, because values loaded during an
    outage need not be in Valkey. 2. After an unacknowledged store the replicas need not agree, because its announcement
    is not guaranteed.
    """
    found: list[Violation] = []
    for key in sorted({key for values in final.by_replica.values() for key in values}):
        values = {replica: versions[key] for replica, versions in final.by_replica.items() if key in versions}
        stored = final.in_valkey.get(key)
        if stored is not None:
            values["Valkey"] = stored
        changes = history.changes[key]
        floor = Floors(changes).before(final.at)
        shown = ", ".join(f"{place} {version}" for place, version in values.items())
        began = final.at - 1.0 if floor is None else floor.began
        newest = max(changes, key=lambda change: change.version, default=None)
        is_unacknowledged = newest is not None and newest.acked is None and any(change.stored for change in changes)
        if len(set(values.values())) > 1 and not is_unacknowledged:
            found.append(Violation("agree", key, f"no agreement: {shown}", began, final.at))
        elif floor is not None and any(version is not None and version < floor.version for version in values.values()):
            found.append(Violation("agree", key, f"older than {_named(floor)}: {shown}", began, final.at))
        elif any(version is not None and version < final.due.get(key, 0) for version in values.values()):
            due = f"older than version {final.due[key]}, whose invalidation had to be repeated"
            found.append(Violation("agree", key, f"{due}: {shown}", began, final.at))
    return found


def _floors(
    history: History, group_of: Callable[[Change], G], *, own: bool = False, foreign: bool = True
) -> defaultdict[G, Floors]:
    groups: defaultdict[G, list[Change]] = defaultdict(list)
    for changes in history.changes.values():
        for change in changes:
            if not foreign and change.replica == FOREIGN:
                continue
            groups[group_of(change)].append(change)
    floors: defaultdict[G, Floors] = defaultdict(lambda: Floors(()))
    floors.update((group, Floors(changes, own=own)) for group, changes in groups.items())
    return floors


def _too_old(kind: str, read: Read, floor: Change) -> Violation:
    moment = floor.seen_from if kind == "own" else floor.acked
    assert moment is not None
    end = "was queued" if kind == "own" and floor.queued is not None else "was acknowledged"
    text = (
        f"{read.replica} read version {read.version} by {read.method} from {read.source or 'an unknown source'}, "
        f"{read.began - moment:.3f} s after {_named(floor)} {end}"
    )
    return Violation(kind, read.key, text, floor.began, read.ended, read.version)


def _named(change: Change) -> str:
    return f"{change.replica}'s {change.method} of version {change.version}"
