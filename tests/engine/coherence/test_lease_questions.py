"""The questions for the end of a lease: of many processes that wait for it, one asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.seams import set_lease_polls
from tests.support import MakeCache, until
from tiercache.engine.coherence.leases import Leases
from tiercache.engine.level2.writes import Announce

# Far longer than a test.
PAUSE = 600.0


class Pipe:
    """A write pipe that lists the keys of the questions, and sends nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def post(self, write: Any, on_done: object = None) -> None:
        if isinstance(write, Announce):
            self.asked += write.announcement.awaited_leases


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def leases(pipe: Pipe) -> Leases:
    of_pipe: Any = pipe
    return Leases(of_pipe, origin="me", ttl=10)


async def test_waiter_does_not_ask_after_another_process_has_asked(leases: Leases, pipe: Pipe) -> None:
    leases.note_awaited("k")
    leases.ask("k", PAUSE)
    leases.ask("other", PAUSE)
    assert pipe.asked == ["other"]


async def test_waiters_of_one_process_ask_once(leases: Leases, pipe: Pipe) -> None:
    for _ in range(3):
        leases.ask("k", PAUSE)
    assert pipe.asked == ["k"]


async def test_waiter_asks_the_holder_of_the_next_lease(leases: Leases, pipe: Pipe) -> None:
    leases.ask("k", PAUSE)
    leases.wake("k")
    leases.ask("k", PAUSE)
    assert pipe.asked == ["k", "k"]


async def test_waiter_asks_again_after_messages_may_have_been_missed(leases: Leases, pipe: Pipe) -> None:
    leases.note_awaited("k")
    leases.wake_all()
    leases.ask("k", PAUSE)
    assert pipe.asked == ["k"]


async def test_waiter_does_not_ask_if_the_server_reports_the_end(leases: Leases, pipe: Pipe) -> None:
    leases.ask("k", PAUSE, is_reported=True)
    assert pipe.asked == []


@pytest.mark.parametrize("outcome", ["answer", KeyError("x")], ids=["value", "error"])
async def test_report_of_the_server_wakes_the_waiter(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, outcome: Any
) -> None:
    """The waiter neither asks nor polls."""
    set_lease_polls(monkeypatch, PAUSE)
    a, b = make_cache(name="test"), make_cache(name="test")
    loader = Loader(outcome, held=True)
    loading = asyncio.ensure_future(a.kv.get_or_load("k", loader))
    await loader.started.wait()
    waiting = asyncio.ensure_future(b.kv.get_or_load("k", Loader("own")))
    await until(lambda: b.local_stats().tiers["kv"].lease_waits == 1)
    plain.config_resetstat()
    loader.release()
    result = await waiting
    assert (result.value, result.source) == (("answer", "l2") if outcome == "answer" else ("own", "loader"))
    assert "cmdstat_publish" not in plain.info("commandstats")
    await asyncio.gather(loading, return_exceptions=True)


async def test_waiter_asks_again_in_each_pause(leases: Leases, pipe: Pipe) -> None:
    leases.ask("k", PAUSE)
    leases.ask("k", 0.0)
    assert pipe.asked == ["k", "k"]


async def test_questions_for_many_keys_are_forgotten(leases: Leases, pipe: Pipe) -> None:
    for number in range(10_500):
        leases.note_awaited(f"{number}")
    leases.ask("0", PAUSE)
    leases.ask("10499", PAUSE)
    assert pipe.asked == ["0"]
