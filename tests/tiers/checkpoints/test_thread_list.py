"""The list of threads has every thread that has checkpoints, whatever the order of two processes."""

from __future__ import annotations

import asyncio

import pytest

from tests.seams import HeldReplies, act_after_command
from tests.support import Pair
from tests.tiers.checkpoints.test_model import Graphs
from tests.tiers.checkpoints.threads import new
from tiercache.engine.level2.writes import Run


async def test_thread_that_is_put_while_another_process_finds_it_absent_stays_in_the_list(
    replicas: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    checkpoint = Graphs(0).new("thread", "", "")
    acted = act_after_command(monkeypatch, "ZRANGE", lambda: two.checkpoints.put("thread", checkpoint))
    assert await one.checkpoints.places("thread") == []
    assert acted == ["ZRANGE"]
    assert await two.checkpoints.threads() == ["thread"]


async def test_thread_that_is_put_while_another_process_removes_its_last_checkpoint_stays_in_the_list(
    replicas: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    first, second = Graphs(0).new("thread", "", ""), Graphs(1).new("thread", "", "")
    await one.checkpoints.put("thread", first)
    replies = HeldReplies(monkeypatch, Run)
    removing = asyncio.create_task(one.checkpoints.remove("thread", [first.place]))
    await replies.answered.wait()
    replies.answered.clear()
    putting = asyncio.create_task(two.checkpoints.put("thread", second))
    await replies.answered.wait()
    replies.release.set()
    assert await removing == 1
    await putting
    assert await two.checkpoints.threads() == ["thread"]


async def test_thread_that_a_run_puts_while_another_process_removes_it_stays_in_the_list_of_the_run(
    replicas: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    await one.checkpoints.put("thread", new(1, {}, run="run"))
    replies = HeldReplies(monkeypatch, Run)
    removing = asyncio.create_task(one.checkpoints.destroy_thread("thread"))
    await replies.answered.wait()
    replies.answered.clear()
    putting = asyncio.create_task(two.checkpoints.put("thread", new(2, {}, run="run")))
    await replies.answered.wait()
    replies.release.set()
    assert await removing == 1
    await putting
    assert await two.checkpoints.remove_run("run") == 1
