"""The write pipe with stores that nobody waits for: when they leave, which of them leave, and who waits for room."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.test_write_pipe import Ledger, write
from tests.requests import turns
from tests.support import until
from tiercache import L2CommandError, L2UnavailableError
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Release, Run, TakeLease, Write, WriteResult, WriteSet
from tiercache.options import WriteOptions

NEVER = 3600.0


def store(key: object, value: bytes = b"x", *indexes: str) -> WriteSet:
    return WriteSet(str(key), value, None, indexes=indexes, announced=True)


def ignore(outcome: Any) -> None: ...


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def pipe(ledger: Ledger) -> WritePipe:
    """A pipe whose stores behind wait for ever, unless something else sends them."""
    return WritePipe(ledger, WriteOptions(max_delay=NEVER, max_ops=10, max_bytes=1000, max_queue_bytes=2000))


# When they leave


async def test_a_store_behind_leaves_by_itself(ledger: Ledger) -> None:
    pipe = WritePipe(ledger, WriteOptions(max_delay=0.001))
    pipe.store_behind(store("a"), ignore)
    assert pipe.queued_count == 1
    await until(lambda: not pipe.queued_count)
    assert ledger.stored == ["a"]
    pipe.store_behind(store("b"), ignore)
    await until(lambda: not pipe.queued_count)


@pytest.mark.parametrize(
    "due",
    [
        lambda pipe: pipe.submit(write("z")),
        lambda pipe: pipe.submit(Delete(("z",))),
        lambda pipe: pipe.submit(TakeLease("z", b"tc:lease:z", 1)),
        lambda pipe: pipe.post(Delete(("z",))),
        lambda pipe: pipe.fill(write("z"), ignore),
    ],
)
async def test_whatever_is_due_takes_along_what_was_queued_before_it(
    pipe: WritePipe, ledger: Ledger, due: Callable[[WritePipe], object]
) -> None:
    pipe.store_behind(store("a"), ignore)
    await turns()
    assert not ledger.batches
    due(pipe)
    pipe.store_behind(store("b"), ignore)
    await turns()
    # The later one rides along: the batch had not left.
    assert [write.keys for write in ledger.batches[0]][:1] == [("a",)]
    assert not pipe.queued_count


async def test_stores_that_come_while_a_batch_is_away_wait_again(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    batch = [str(n) for n in range(10)]
    waiting = [pipe.submit(write(key)) for key in batch]
    await turns()
    pipe.store_behind(store("b"), ignore)
    ledger.open.set()
    await asyncio.gather(*waiting)
    await turns()
    assert ledger.stored == batch
    await pipe.flush()
    assert ledger.stored == [*batch, "b"]


async def test_a_whole_batch_waits_no_longer(pipe: WritePipe, ledger: Ledger) -> None:
    for n in range(9):
        pipe.store_behind(store(n), ignore)
    await turns()
    assert not ledger.batches
    pipe.store_behind(store(9), ignore)
    await turns()
    assert [len([w for w in batch if isinstance(w, WriteSet)]) for batch in ledger.batches] == [10]


async def test_a_whole_batch_of_bytes_waits_no_longer(pipe: WritePipe, ledger: Ledger) -> None:
    pipe.store_behind(store("a", b"x" * 500), ignore)
    await turns()
    assert not ledger.batches
    pipe.store_behind(store("b", b"x" * 500), ignore)
    await turns()
    assert not pipe.queued_count


async def test_a_flush_sends_what_waits(pipe: WritePipe, ledger: Ledger) -> None:
    outcomes: list[Any] = []
    pipe.store_behind(store("a"), outcomes.append)
    await pipe.flush()
    assert outcomes == [1]


async def test_a_drain_sends_what_waits_and_lets_in_who_waits_for_room(pipe: WritePipe, ledger: Ledger) -> None:
    async def store_one(key: int) -> None:
        await pipe.wait_room(1, is_behind=True)
        pipe.store_behind(store(key), ignore)

    ledger.open.clear()
    storing = [asyncio.create_task(store_one(n)) for n in range(35)]
    await turns()
    draining = asyncio.create_task(pipe.drain(10))
    await turns()
    ledger.open.set()
    await draining
    await asyncio.gather(*storing)
    assert ledger.stored == [str(n) for n in range(35)]
    assert pipe.queued_count == 0


# Which of them leave


async def test_of_several_stores_of_a_key_the_last_is_sent(pipe: WritePipe, ledger: Ledger) -> None:
    outcomes: list[Any] = []
    pipe.store_behind(store("a", b"1", "i", "j"), lambda outcome: outcomes.append((1, outcome)))
    pipe.store_behind(store("b", b"1"), ignore)
    awaited = pipe.submit(store("a", b"2", "k"), lambda outcome: outcomes.append((2, outcome)))
    assert await awaited == 1
    assert outcomes == [(1, 1), (2, 1)]
    assert [w for w in ledger.batches[0] if isinstance(w, WriteSet)] == [
        WriteSet("a", b"2", None, indexes=("i", "j", "k"), announced=True),
        store("b", b"1"),
    ]
    assert (pipe.queued_bytes, pipe.is_changing("a")) == (0, False)


async def test_a_store_that_has_been_sent_is_not_replaced(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    first = pipe.submit(store("a", b"1"))
    await turns()
    second = pipe.submit(store("a", b"2"))
    ledger.open.set()
    assert await asyncio.gather(first, second) == [1, 1]
    assert ledger.stored == ["a", "a"]


async def test_an_error_reaches_all_that_one_write_stood_for(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.refused = {"a"}
    outcomes: list[Any] = []
    pipe.store_behind(store("a", b"1"), outcomes.append)
    with pytest.raises(L2CommandError):
        await pipe.submit(store("a", b"2"), outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [L2CommandError] * 2


class Memory(Ledger):
    """A Level2 that does what it is told."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.values: dict[str, bytes] = {}
        self.indexes: dict[str, set[str]] = {}

    async def apply(self, writes: Any) -> list[WriteResult]:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        return [self.carry_out(write) for write in writes]

    def carry_out(self, write: Write) -> WriteResult:
        match write:
            case WriteSet(key, value, _, replaces, indexes):
                for index in indexes:
                    self.indexes.setdefault(index, set()).add(key)
                if replaces is not None and self.values.get(key) != replaces:
                    return 0
                self.values[key] = value
                return 1
            case Delete(keys):
                texts = [key.decode() if isinstance(key, bytes) else key for key in keys]
                return sum(self.values.pop(key, None) is not None for key in texts)
            case TakeLease(key, placeholder):
                there = self.values.get(key)
                self.values.setdefault(key, placeholder)
                return there
            case Release(key, placeholder):
                return self.values.pop(key) and 1 if self.values.get(key) == placeholder else 0
            case Run(command):
                self.values[str(command[1])] = self.values.get(str(command[1]), b"") + b"+"
                return self.values[str(command[1])]
        return 1


def any_write(rng: random.Random) -> tuple[Write, bool]:
    """Return a write of one of three keys, and whether it may be sent behind."""
    key, value = rng.choice("abc"), str(rng.randrange(4)).encode()
    kind = rng.choice(["store"] * 8 + ["fill", "replace", "delete", "scanned", "take", "release", "run", "run unknown"])
    match kind:
        case "store":
            return store(key, value, *rng.sample("ij", rng.randrange(3))), rng.random() < 0.7
        case "fill":
            return WriteSet(key, value, None), False
        case "replace":
            return WriteSet(key, b"replaced", None, replaces=value), False
        case "delete":
            return Delete(tuple(set(rng.choices("abc", k=2))), announced=True), False
        case "scanned":
            return Delete((key.encode(),)), False
        case "take":
            return TakeLease(key, b"lease", 1), False
        case "release":
            return Release(key, b"lease"), False
        case "run":
            return Run(("APPEND", key, "+"), keys=(key,)), False
    return Run(("APPEND", key, "+")), False


@pytest.mark.parametrize("seed", range(60))
async def test_what_comes_of_the_writes_is_what_they_say_one_after_the_other(seed: int) -> None:
    rng = random.Random(seed)
    level2, model = Memory(rng), Memory(rng)
    pipe = WritePipe(level2, WriteOptions(max_delay=0.0001, max_ops=rng.choice([1, 3, 100])))
    outcomes: dict[int, Any] = {}
    expected: dict[int, Any] = {}
    for number in range(60):
        write, is_behind = any_write(rng)
        expected[number] = model.carry_out(write)

        def note(outcome: Any, number: int = number) -> None:
            outcomes[number] = outcome

        if is_behind and isinstance(write, WriteSet):
            pipe.store_behind(write, note)
        elif isinstance(write, WriteSet) and not write.announced:
            pipe.post(write, note)
        else:
            pipe.submit(write, note)
        for _ in range(rng.choice([0, 0, 0, 1, 5])):
            await asyncio.sleep(0)
    await pipe.flush()
    assert outcomes == expected
    assert (level2.values, level2.indexes) == (model.values, model.indexes)
    assert (pipe.queued_bytes, pipe._in_flight, pipe._explicit, pipe._replaceable) == (0, {}, {}, {})


# Who waits for room


async def test_a_full_queue_holds_explicit_stores_up_in_turn(pipe: WritePipe, ledger: Ledger) -> None:
    order: list[str] = []

    async def store_when_there_is_room(key: str, size: int) -> None:
        await pipe.wait_room(size + 1)
        order.append(key)
        await pipe.write(store(key, b"x" * size))

    ledger.open.clear()
    assert pipe.fill(write("full", 1500), ignore)
    storing = [
        asyncio.create_task(store_when_there_is_room(key, size))
        for key, size in (("large", 1500), ("cancelled", 1500), ("small", 10))
    ]
    await turns()
    assert order == []
    # Nothing passes who waits, but an invalidation.
    assert not pipe.fill(write("fill"), ignore)
    deleting = pipe.submit(Delete(("full",)))
    assert pipe.queued_count == 2
    storing[1].cancel()
    ledger.open.set()
    await deleting
    await asyncio.gather(*storing, return_exceptions=True)
    assert order == ["large", "small"]
    assert ledger.stored == ["full", "large", "small"]
    assert pipe.fill(write("fill"), ignore)
    await pipe.flush()


async def test_who_is_cancelled_while_let_in_leaves_the_room_to_the_next(pipe: WritePipe, ledger: Ledger) -> None:
    # By then it has been let in, and has not come to its next step.
    pipe.store_behind(store("full", b"x" * 900), lambda _: waiting[0].cancel())
    waiting = [asyncio.create_task(pipe.wait_room(1900)) for _ in range(2)]
    await turns()
    assert not any(task.done() for task in waiting)
    await pipe.flush()
    async with asyncio.timeout(10):
        await waiting[1]
    assert waiting[0].cancelled()
    assert not pipe._budget.is_wanted


async def test_a_value_larger_than_all_the_room_goes_when_there_is_nothing_else(
    pipe: WritePipe, ledger: Ledger
) -> None:
    await pipe.wait_room(5000)
    await pipe.write(store("a", b"x" * 5000))
    assert not pipe.fill(write("b", 5000), ignore)


async def test_at_most_one_batch_of_stores_behind_is_unanswered(pipe: WritePipe, ledger: Ledger) -> None:
    returned = 0
    most = 0

    async def store_all() -> None:
        nonlocal returned, most
        for n in range(95):
            await pipe.wait_room(10, is_behind=True)
            pipe.store_behind(store(n), ignore)
            returned += 1
            most = max(most, returned - len(ledger.stored))

    # It never lets others run but for the want of room.
    await store_all()
    assert most == 10
    await pipe.flush()
    assert len(ledger.stored) == 95


async def test_who_waits_for_room_is_told_of_the_end(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    pipe.store_behind(store("a", b"x" * 1999), ignore)
    waiting = asyncio.create_task(pipe.wait_room(100))
    await turns()
    await pipe.drain(0.01)
    with pytest.raises(L2UnavailableError, match="closed before"):
        await waiting
