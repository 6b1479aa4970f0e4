"""The write pipe with write-behind stores: when the pipe sends them, and which store of a key it sends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.level2.ledger import NEVER, Ledger, ignore, store, write
from tests.requests import turns
from tests.seams import PipeView
from tests.support import until
from tiercache import L2CommandError
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Release, Run, TakeLease, Write, WriteResult, WriteSet
from tiercache.options import WriteOptions


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def pipe(ledger: Ledger) -> WritePipe:
    """Return a pipe that sends write-behind stores only with another write."""
    return WritePipe(ledger, WriteOptions(max_delay=NEVER, max_ops=10, max_bytes=1000, max_queue_bytes=2000))


# When the pipe sends a write-behind store


async def test_write_pipe_sends_behind_store_after_max_delay(ledger: Ledger) -> None:
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
async def test_write_pipe_sends_behind_stores_with_any_due_write(
    pipe: WritePipe, ledger: Ledger, due: Callable[[WritePipe], object]
) -> None:
    pipe.store_behind(store("a"), ignore)
    await turns()
    assert not ledger.batches
    due(pipe)
    pipe.store_behind(store("b"), ignore)
    await turns()
    # The later store joins the batch, which was not sent yet.
    assert [write.keys for write in ledger.batches[0]][:1] == [("a",)]
    assert not pipe.queued_count


async def test_write_pipe_delays_behind_store_queued_during_batch_in_flight(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_sends_behind_stores_at_once_when_count_fills_a_batch(pipe: WritePipe, ledger: Ledger) -> None:
    for n in range(9):
        pipe.store_behind(store(n), ignore)
    await turns()
    assert not ledger.batches
    pipe.store_behind(store(9), ignore)
    await turns()
    assert [len([w for w in batch if isinstance(w, WriteSet)]) for batch in ledger.batches] == [10]


async def test_write_pipe_sends_behind_stores_at_once_when_bytes_fill_a_batch(pipe: WritePipe, ledger: Ledger) -> None:
    pipe.store_behind(store("a", b"x" * 500), ignore)
    await turns()
    assert not ledger.batches
    pipe.store_behind(store("b", b"x" * 500), ignore)
    await turns()
    assert not pipe.queued_count


async def test_write_pipe_flush_sends_behind_stores(pipe: WritePipe, ledger: Ledger) -> None:
    outcomes: list[Any] = []
    pipe.store_behind(store("a"), outcomes.append)
    await pipe.flush()
    assert outcomes == [1]


async def test_write_pipe_drain_sends_behind_stores_and_admits_waiting_stores(pipe: WritePipe, ledger: Ledger) -> None:
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


# Which store of a key the pipe sends


async def test_write_pipe_sends_only_last_of_several_stores_of_a_key(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_does_not_replace_store_in_flight(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    first = pipe.submit(store("a", b"1"))
    await turns()
    second = pipe.submit(store("a", b"2"))
    ledger.open.set()
    assert await asyncio.gather(first, second) == [1, 1]
    assert ledger.stored == ["a", "a"]


async def test_write_pipe_fails_every_store_that_a_refused_write_replaced(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.refused = {"a"}
    outcomes: list[Any] = []
    pipe.store_behind(store("a", b"1"), outcomes.append)
    with pytest.raises(L2CommandError):
        await pipe.submit(store("a", b"2"), outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [L2CommandError] * 2


class Model(Ledger):
    """A Level2 that carries out its writes, after a random number of steps."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.values: dict[str, bytes] = {}
        self.indexes: dict[str, set[str]] = {}

    async def apply(self, writes: Any) -> list[WriteResult]:
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        return [self.carry_out(write) for write in writes]

    def carry_out(self, write: Write) -> WriteResult:
        """Apply ``write`` and return its outcome."""
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


def random_write(dice: random.Random) -> tuple[Write, bool]:
    """Return a write of one of three keys, and whether it may be sent write-behind."""
    key, value = dice.choice("abc"), str(dice.randrange(4)).encode()
    kind = dice.choice(
        ["store"] * 8 + ["fill", "replace", "delete", "scanned", "take", "release", "run", "run unknown"]
    )
    match kind:
        case "store":
            return store(key, value, *dice.sample("ij", dice.randrange(3))), dice.random() < 0.7
        case "fill":
            return WriteSet(key, value, None), False
        case "replace":
            return WriteSet(key, b"replaced", None, replaces=value), False
        case "delete":
            return Delete(tuple(set(dice.choices("abc", k=2))), announced=True), False
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
async def test_write_pipe_matches_sequential_model_for_random_writes(seed: int) -> None:
    dice = random.Random(seed)
    level2, model = Model(dice), Model(dice)
    pipe = WritePipe(level2, WriteOptions(max_delay=0.0001, max_ops=dice.choice([1, 3, 100])))
    outcomes: dict[int, Any] = {}
    expected: dict[int, Any] = {}
    for number in range(60):
        write, is_behind = random_write(dice)
        expected[number] = model.carry_out(write)

        def note(outcome: Any, number: int = number) -> None:
            outcomes[number] = outcome

        if is_behind and isinstance(write, WriteSet):
            pipe.store_behind(write, note)
        elif isinstance(write, WriteSet) and not write.announced:
            pipe.post(write, note)
        else:
            pipe.submit(write, note)
        for _ in range(dice.choice([0, 0, 0, 1, 5])):
            await asyncio.sleep(0)
    await pipe.flush()
    assert outcomes == expected
    assert (level2.values, level2.indexes) == (model.values, model.indexes)
    assert PipeView(pipe).bookkeeping == (0, {}, {}, {})
