"""The rows of the tables: one probe each, a function that runs a product and returns the text of its cell."""

from collections.abc import Awaitable, Callable

from benchmarks.comparison.bench import Bench
from benchmarks.comparison.probes import calls, changes, faults, keys, survival, threads
from benchmarks.comparison.product import Answers, Product

Probe = Callable[[Bench], Awaitable[str]]

CALLS: dict[str, Probe] = {
    "plain-store": calls.plain_store,
    "repeat": calls.repeat,
    "repeat-plain": calls.repeat_plain,
    "repeat-long": calls.repeat_long,
    "stream": calls.stream,
    "together": calls.together,
    "together-processes": calls.together_processes,
    "memory-level": calls.memory_level,
    "pickle": calls.pickled,
}
KEYS: dict[str, Probe] = {f"differ-{name}": keys.probe_of(name) for name in keys.DIFFERENCES}
SURVIVAL: dict[str, Probe] = {f"survives-{name}": survival.probe_of(name) for name in survival.ASPECTS}
FAULTS: dict[str, Probe] = {
    "killed-during": faults.killed_during,
    "hung-during": faults.hung_during,
    "down": faults.down,
}
CHANGES: dict[str, Probe] = {
    "invalidate-entry": changes.probe_of("entry"),
    "invalidate-tag": changes.probe_of("tag"),
    "invalidate-model": changes.probe_of("model"),
    "clear": changes.probe_of("all"),
    "ttl": changes.ttl,
    "statistics": changes.statistics,
}
THREADS: dict[str, Probe] = {
    "thread-plain-store": threads.plain_store,
    "thread-plain-calls": threads.plain_calls,
    "thread-messages": threads.messages,
    "thread-history": threads.history,
    "thread-memory": threads.memory,
    "thread-killed": threads.killed,
    "thread-hung": threads.hung,
    "thread-ttl": threads.ttl,
    "thread-pickle": threads.pickled,
}
"""The probes of each table, by the name of the row, in the order of the rows."""
ANSWER_PROBES = CALLS | KEYS | SURVIVAL | FAULTS | CHANGES


def probes_of(product: type[Product]) -> dict[str, Probe]:
    """Return the probes of a product."""
    return ANSWER_PROBES if issubclass(product, Answers) else THREADS
