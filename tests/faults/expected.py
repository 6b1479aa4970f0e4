"""The expected outcomes: for each fault and each kind of operation, the outcomes that a caller may see.

The rule above the tables: the answer of a healthy loader always reaches its caller, and once a cache is open, no fault
of Valkey makes a lookup or a load of the llm, tool and kv tiers raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from tests.faults.operations import KINDS, Operation
from tests.faults.outcomes import Outcome, Outcomes

__all__ = ["ALWAYS", "EXPECTED", "WORKS", "Row", "allowed"]

# The allowed outcomes by kind. The name of an operation, "check of llm", as a key wins over its kind.
Row: TypeAlias = Mapping[str, Outcomes]

VALUE, MISS, DEGRADED = Outcome.VALUE, Outcome.MISS, Outcome.DEGRADED
DONE, UNAVAILABLE, REFUSED = Outcome.DONE, Outcome.UNAVAILABLE, Outcome.REFUSED

_LOOKUPS: Final = ("check", "get_many", "get_or_load", "get_or_load_many")
_STORES: Final = ("store", "set", "set_many")
_REMOVALS: Final = ("invalidate", "delete_many")
_INDEXED: Final = ("invalidate_by", "invalidate_tag")
_GROUPS: Final = (*_INDEXED, "clear")
_SESSION_READS: Final = ("session.get", "session.get_all")
_SESSION_WRITES: Final = ("session.set", "session.append", "session.incr", "session.compare_and_set")
_SESSION_CHANGES: Final = ("session.touch", *_SESSION_WRITES, "session.delete", "session.destroy")
_WHOLE_THREADS: Final = ("session.get_all", "session.touch", "session.destroy")
_SESSIONS: Final = (*_SESSION_READS, *_SESSION_CHANGES)
_CHANGES: Final = (*_STORES, *_REMOVALS, *_GROUPS, *_SESSION_CHANGES)

# The outcomes of these kinds are the same under every fault.
ALWAYS: Final[Row] = {
    "load": frozenset({VALUE}),
    "refresh": frozenset({VALUE}),
    "store behind": frozenset({DONE}),
    "flush_writes": frozenset({DONE}),
    "aclose": frozenset({DONE}),
}


def _row(base: Row, *changes: tuple[Iterable[str], Outcomes | Outcome]) -> Row:
    """Return ``base`` with other outcomes for some kinds or operations."""
    row = dict(base)
    for kinds, outcomes in changes:
        row |= dict.fromkeys(kinds, frozenset({outcomes}) if isinstance(outcomes, Outcome) else outcomes)
    return row


def _refused(*kinds: str) -> Row:
    """Return a row in which Valkey refuses some kinds of operations: a lookup is then degraded."""
    degraded = [kind for kind in kinds if kind.partition(" of ")[0] in _LOOKUPS]
    return _row(WORKS, (kinds, REFUSED), (degraded, DEGRADED))


WORKS: Final[Row] = {
    **ALWAYS,
    **dict.fromkeys((*_LOOKUPS, "explain", *_SESSION_READS, "stats"), frozenset({VALUE})),
    **dict.fromkeys((*_CHANGES, "set_policy"), frozenset({DONE})),
}

# Valkey gives no answer.
AWAY: Final = _row(
    WORKS, ((*_LOOKUPS, "explain"), DEGRADED), ((*_SESSION_READS, *_CHANGES, "stats", "set_policy"), UNAVAILABLE)
)

# Valkey answers, and the entries are gone.
EMPTY: Final = _row(WORKS, ((*_LOOKUPS, "explain", *_SESSION_READS), MISS))

# Valkey answers reads, and makes no change for a while.
UNCHANGEABLE: Final = _row(WORKS, ((*_CHANGES, "set_policy"), UNAVAILABLE))

# The server is a replica: from a refused write or the next PING on, this process reads nothing from it.
DEMOTED: Final = _row(
    UNCHANGEABLE,
    ((*_LOOKUPS, "explain"), frozenset({VALUE, DEGRADED})),
    ((*_SESSION_READS, "stats"), frozenset({VALUE, UNAVAILABLE})),
)

# Valkey refuses everything.
REFUSING: Final = _row(
    WORKS, (_LOOKUPS, DEGRADED), (("explain", *_SESSION_READS, *_CHANGES, "stats", "set_policy"), REFUSED)
)

_FAULTS: Final[Mapping[str, Row]] = {
    "no fault": WORKS,
    "server killed": AWAY,
    "server stopped (SIGSTOP)": AWAY,
    "server restarted empty": EMPTY,
    "LOADING (server reads its data)": AWAY,
    "black hole (no byte passes)": AWAY,
    # The first exchange on each silent connection has no answer; later calls open new connections.
    "connections half open": _row(
        WORKS, ((*_LOOKUPS, "explain"), DEGRADED), ((*_SESSION_READS, "session.touch"), UNAVAILABLE)
    ),
    "connections refused": AWAY,
    "connections cut once": WORKS,
    "cut before each command": AWAY,
    "cut after each command": AWAY,
    "garbage as answers": AWAY,
    "slow drip (20 kB/s)": WORKS,
    # A batch of writes takes longer than its deadline to leave; a reply ends no deadline as long as bytes arrive.
    "slow drip (5 kB/s)": _row(
        WORKS,
        ((*_CHANGES, "set_policy"), frozenset({DONE, UNAVAILABLE})),
        (("session.get_all", "stats"), frozenset({VALUE, UNAVAILABLE})),
        # With tracking by interest they take two round trips, the second one perhaps behind a long script.
        (("get_many", "get_or_load_many"), frozenset({VALUE, DEGRADED})),
    ),
    "OOM (out of memory)": _row(WORKS, ((*_STORES, *_SESSION_WRITES, "set_policy"), REFUSED)),
    "NOREPLICAS (too few replicas)": UNCHANGEABLE,
    "MISCONF (data cannot be saved)": UNCHANGEABLE,
    "READONLY (replica of an unreachable primary)": DEMOTED,
    "READONLY (failover: its replica became the primary)": DEMOTED,
    "MASTERDOWN (replica without its primary)": AWAY,
    "BUSY (a script runs)": AWAY,
    "max number of clients reached": AWAY,
    "FLUSHALL": EMPTY,
    "SCRIPT FLUSH": WORKS,
    "entries replaced by lists": EMPTY,
    "all keys replaced by lists": _row(
        EMPTY,
        (("store", *_INDEXED, "session.get_all", *_SESSION_CHANGES, "stats"), REFUSED),
        (("session.compare_and_set",), DONE),
    ),
    "password rotated, connections killed": REFUSING,
    "password rotated, connections killed, over TCP": REFUSING,
    "user off, connections killed": REFUSING,
}

_SCRIPTED: Final = (*_STORES, *_REMOVALS, *_GROUPS, "session.get_all", *_SESSION_CHANGES)
_ALL: Final = (*_LOOKUPS, "explain", *_SESSION_READS, *_CHANGES, "stats", "set_policy")


def _on(tier: str, *kinds: str) -> tuple[str, ...]:
    """Return the names of operations on one tier."""
    return tuple(f"{kind} of {tier}" for kind in kinds)


# The rights that are taken away. Operations that a row does not name work as without a fault.
_RIGHTS: Final[Mapping[str, Row]] = {
    # On the present connections, tracking by interest reads by GETRANGE.
    "`GET`": _row(
        _refused("session.get_all", "session.append", "session.incr", "session.compare_and_set"),
        (("check", "get_or_load"), frozenset({VALUE, DEGRADED})),
        (("explain", "session.get"), frozenset({VALUE, REFUSED})),
    ),
    "`MGET`": _refused("get_many", "get_or_load_many"),
    "`PTTL`": _refused(*_LOOKUPS, "explain", "store", *_SESSIONS),
    "`SET`": _refused(*_STORES, "session.set", "session.append", "session.compare_and_set"),
    "`DEL`": _refused(*_REMOVALS, *_GROUPS, "session.delete", "session.destroy"),
    "`EVAL`": _refused(*_SCRIPTED),
    "`SCAN`": _refused("clear"),
    "`EXISTS`": _refused(*_WHOLE_THREADS, "session.set", "session.append", "session.incr"),
    "`PEXPIRE`": _refused("store", "session.touch", *_SESSION_WRITES),
    "`TIME`": _refused("store"),
    "`GETEX`": _refused("session.touch"),
    "`HGET`": _refused("session.get_all", "session.touch", *_SESSION_WRITES),
    "`HSET`": _refused("session.set", "session.append", "session.incr", "set_policy"),
    "`INCRBY`": _refused("session.incr"),
    "`HDEL`": _refused("session.delete", "session.destroy"),
    "`HGETALL`": _refused("stats"),
    "`HKEYS`": _refused(*_WHOLE_THREADS),
    "`ZADD`": _refused("store"),
    "`ZSCAN`": _refused(*_INDEXED),
    **dict.fromkeys(
        (
            *("`DELIFEQ`", "`EVAL_RO`", "`PERSIST`", "`INCR`", "`GETRANGE`", "`INFO`", "`PUBLISH`", "`SUBSCRIBE`"),
            *("`PING`", "`SADD`", "`SREM`", "`SISMEMBER`", "`HINCRBY`", "`HEXISTS`", "`HVALS`", "`EXPIRE`", "`ZREM`"),
            *("`ZSCORE`", "`ZCARD`", "`ZRANDMEMBER`", "`ZRANGEBYSCORE`", "`ZREMRANGEBYSCORE`", "`CLIENT ID`"),
            *("`CLIENT KILL`", "`CLIENT TRACKING`", "`CLIENT TRACKINGINFO`", "`CLIENT SETNAME`", "`CLIENT SETINFO`"),
            *("`ROLE`", "`XADD`", "`XREAD`", "`XTRIM`", "`COPY`", "`ZRANGE`", "`HLEN`", "`HRANDFIELD`", "`SETRANGE`"),
            *("`MULTI`", "`EXEC`", "`CONFIG GET`", "`PUBSUB NUMSUB`", "`UNSUBSCRIBE`"),
        ),
        WORKS,
    ),
    "`@read`": _refused(*_LOOKUPS, "explain", "store", *_SESSIONS, *_GROUPS, "stats"),
    "`@write`": _refused(*_CHANGES, "set_policy"),
    "`@scripting`": _refused(*_SCRIPTED),
    "`@pubsub`": WORKS,
    "`@all`": _refused(*_ALL),
    "keys `llm:*`": _refused(
        *_on("llm", "check", "get_or_load", "store", "invalidate", "invalidate_by"), "invalidate_tag"
    ),
    "keys `tool:*`": _refused(
        *_on("tool", "check", "get_or_load", "store", "invalidate", "invalidate_by"), "invalidate_tag"
    ),
    "keys `session:*`": _refused(*_SESSIONS),
    "keys `__tc:kv:*`": _refused(
        *_on("kv", "check", "get_or_load", "store", "invalidate"),
        *("get_many", "get_or_load_many", "explain", "set", "set_many", "delete_many", "invalidate_tag", "clear"),
    ),
    "keys `__tc:idx:*`": _refused("store", *_INDEXED),
    "keys `__tc:thread:*`": _refused("session.get_all", *_SESSION_CHANGES),
    "keys `__tc:sequence*`": _refused(
        *_STORES, *_REMOVALS, *_GROUPS, *_SESSION_WRITES, "session.delete", "session.destroy"
    ),
    "keys `__tc:*`": _refused(
        *_on("kv", "check", "get_or_load"), "get_many", "get_or_load_many", "explain", *_SCRIPTED
    ),
    "keys `__stats*`": _refused("stats"),
    "keys `__tool_policies*`": _refused("set_policy"),
    "keys `__betterdb:*`": WORKS,
    "every key, to write it": _refused(*_SCRIPTED, "set_policy"),
    "every key, to read it": _refused(*(kind for kind in _ALL if kind != "set_policy")),
    "every key": _refused(*_ALL),
    "the channel of the cache": WORKS,
    "the channel `__redis__:invalidate`": WORKS,
    "every channel": WORKS,
}

EXPECTED: Final[Mapping[str, Row]] = {**_FAULTS, **_RIGHTS}


def allowed(row: Row, operation: Operation) -> Outcomes:
    """Return the outcomes that a row allows for an operation."""
    return row.get(operation.name, row[operation.kind])


assert set(WORKS) == set(KINDS)
