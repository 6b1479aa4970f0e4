"""The checks of a soak over handmade values, measures and keys."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import pytest

from tests.support import until
from tiercache import AgentCache
from tiercache.testing.soak import Outcome, SoakSettings
from tiercache.testing.soak.checks import check_end
from tiercache.testing.soak.container_sizes import container_sizes, function_cache_sizes
from tiercache.testing.soak.items import Item
from tiercache.testing.soak.journal import Journal
from tiercache.testing.soak.keys import KeysLeft
from tiercache.testing.soak.ledger import Ledger
from tiercache.testing.soak.measure import EMPTY_AT_REST, not_empty
from tiercache.testing.soak.protocol import Ended, Problem, Rest
from tiercache.testing.soak.report import CHECKS, report_of
from tiercache.testing.soak.values import WrongValueError, make_value, version_of

ITEM = Item("kv", "loaded", 7)
MIB = 1024 * 1024


# Values


@pytest.mark.parametrize("number", range(50))
def test_value_verifies_its_key_and_its_bytes(number: int) -> None:
    value = make_value(f"k{number}", 3)
    assert version_of(f"k{number}", value) == 3
    for wrong in (value[:-1], value[:-1] + "x", value.replace("|3|", "|4|", 1), value.replace("k", "j", 1), "", 3):
        with pytest.raises(WrongValueError):
            version_of(f"k{number}", wrong)


def test_value_of_another_key_is_named() -> None:
    with pytest.raises(WrongValueError, match=r"k has a value of the key other"):
        version_of("k", make_value("other", 1))


# The journal


@pytest.fixture
def problems() -> list[Problem]:
    return []


@pytest.fixture
async def journal(url: str, problems: list[Problem]) -> Journal:
    return Journal(Ledger(url), 1.0, problems.append)


async def test_journal_finds_a_value_of_another_key(journal: Journal, problems: list[Problem]) -> None:
    journal.saw(ITEM, make_value("kv.loaded.8.0", 1), 10.0, 0, "kv.get")
    assert [problem.kind for problem in problems] == ["key"]


async def test_journal_finds_a_read_older_than_an_own_change(journal: Journal, problems: list[Problem]) -> None:
    before = journal.floor(ITEM)
    journal.changed([ITEM], [5], "remove")
    # This read began before the change had returned.
    journal.saw(ITEM, make_value(ITEM.key, 4), 10.0, before, "kv.get")
    journal.saw(ITEM, make_value(ITEM.key, 5), 10.0, journal.floor(ITEM), "kv.get")
    journal.saw(ITEM, None, 10.0, journal.floor(ITEM), "kv.get")
    assert not problems
    journal.saw(ITEM, make_value(ITEM.key, 4), 10.0, journal.floor(ITEM), "kv.get")
    assert [problem.kind for problem in problems] == ["own"]


async def test_journal_finds_a_read_beyond_the_staleness_bound(url: str, problems: list[Problem]) -> None:
    async with Ledger(url) as ledger:
        journal = Journal(ledger, 1.0, problems.append)
        await ledger.acknowledge([ITEM.key], [5], 10.0, "remove")
        journal.saw(ITEM, make_value(ITEM.key, 4), 10.9, 0, "kv.get")
        journal.saw(ITEM, make_value(ITEM.key, 5), 12.0, 0, "kv.get")
        await journal.check_waiting()
        assert not problems
        journal.saw(ITEM, make_value(ITEM.key, 4), 11.1, 0, "kv.get")
        await journal.check_waiting()
    assert [problem.kind for problem in problems] == ["bound"]
    assert "1.100 s after the change to version 5" in problems[0].text


# Measures


def outcome_of(
    *, rss: list[int] | None = None, tasks: list[int] | None = None, sizes: dict[str, int] | None = None, **end: object
) -> Outcome:
    """Return the outcome of a soak of ten measures in one process."""
    rss, tasks = rss or [50 * MIB] * 10, tasks or [15] * 10
    rests = [
        Rest(seconds=60.0 * number, rss_bytes=rss[number], tasks=tasks[number], descriptors=10, threads=1, sizes={})
        for number in range(9)
    ]
    last = Rest(seconds=540.0, rss_bytes=rss[9], tasks=tasks[9], descriptors=10, threads=1, sizes=sizes or {})
    ended = Ended(calls={"get_or_load": 5}, raised={}, cancelled=0, checked=5, warnings=0, rest=last, **end)  # type: ignore[arg-type]
    return Outcome(SoakSettings(processes=1), rests=[[*rests, last]], ended=[ended], faults=[(1.0, "cut")])


def kinds(outcome: Outcome) -> list[str]:
    return [problem.kind for problem in check_end(outcome)]


def test_check_permits_growth_before_the_warm_up_ends() -> None:
    assert kinds(outcome_of(rss=[size * MIB for size in (10, 30, 50, 60, 60, 61, 60, 62, 61, 61)])) == []
    assert kinds(outcome_of(tasks=[3, 9, 12, 15, 15, 15, 16, 15, 15, 15])) == []


def test_check_finds_memory_that_grows() -> None:
    assert kinds(outcome_of(rss=[size * MIB for size in range(10, 100, 9)])) == ["memory"]


def test_check_ignores_one_high_measure_of_memory() -> None:
    assert kinds(outcome_of(rss=[size * MIB for size in (50, 50, 50, 50, 50, 50, 50, 50, 200, 50)])) == []


def test_check_finds_tasks_that_grow() -> None:
    assert kinds(outcome_of(tasks=list(range(10, 30, 2)))) == ["tasks"]


def test_check_finds_a_container_above_every_bound() -> None:
    assert kinds(outcome_of(sizes={"Leases._held": 13_000, "_Lru.order": 2_000})) == ["containers"]


def test_check_finds_tasks_and_descriptors_left_after_the_close() -> None:
    assert kinds(outcome_of(left_tasks=["tiercache-listen"], left_descriptors=2)) == ["close", "close"]


def test_check_finds_keys_of_entries_left_in_valkey() -> None:
    outcome = outcome_of()
    outcome.keys = KeysLeft(3.0, ["soak:__stats"], Counter())
    assert kinds(outcome) == []
    outcome.keys = KeysLeft(300.0, ["soak:__stats"], Counter({"soak:__tc:idx:tag": 9}))
    (problem,) = check_end(outcome)
    assert problem.text == "9 keys are left 300 s after the end: 9 soak:__tc:idx:tag:..."


def test_report_has_a_row_for_every_check_and_the_bounds() -> None:
    outcome = outcome_of(sizes={"_Lru.order": 2_000})
    outcome.keys = KeysLeft(3.0, ["soak:__stats"], Counter())
    report = report_of(outcome)
    assert all(f"| {text} |" in report for text in CHECKS.values())
    assert "`_Lru.order` 2,000" in report
    assert "1 key after 3 s: `soak:__stats`" in report
    assert "**no violation**" in report


def test_report_shows_the_moment_of_a_problem_and_the_fault_before_it() -> None:
    outcome = outcome_of()
    outcome.began, outcome.faults = 100.0, [(101.0, "cut"), (103.0, "stall")]
    outcome.problems = [Problem("own", "too old", 102.5), Problem("keys", "too many")]
    report = report_of(outcome)
    assert "    2.5 s, after cut: own: too old\n" in report
    assert "    keys: too many\n" in report
    assert "**2 violations**" in report


# Containers


class Holder:
    def __init__(self) -> None:
        self.numbers = {1: 2, 3: 4}
        self.waiting = deque([1])
        self.fixed = (1, 2, 3)
        self.queue = asyncio.Queue[int]()


def test_container_sizes_leave_objects_of_other_packages_out() -> None:
    assert container_sizes(Holder()) == {"Holder.numbers": 2, "Holder.waiting": 1}


async def test_container_sizes_find_the_containers_of_a_cache(cache: AgentCache) -> None:
    for number in range(30):
        await cache.kv.set(f"k{number}", number, tags=[f"t{number}"])
    sizes = container_sizes(cache)
    assert sizes["_Lru.order"] == 30
    owners = {name.partition(".")[0] for name in sizes}
    # A class that is renamed must be renamed there too.
    assert owners >= EMPTY_AT_REST
    await cache.flush_writes()
    assert not not_empty(cache)
    assert all(size >= 0 for size in function_cache_sizes().values())


async def test_container_sizes_show_a_load_in_progress(cache: AgentCache) -> None:
    release = asyncio.Event()

    async def load() -> int:
        await release.wait()
        return 1

    loading = asyncio.create_task(cache.kv.get_or_load("k", load))
    await until(lambda: "Flights._by_key" in not_empty(cache))
    assert not_empty(cache)["Flights._by_key"] == 1
    release.set()
    await loading
