"""Each installed peer does the works that it offers with right answers, and the checks notice wrong answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.peers import PEERS, Endpoint, peer_class, why_missing
from benchmarks.server import Counters, raise_file_limit, running_valkey
from benchmarks.timing import Budget, Measured
from benchmarks.works import WORKS, Bench, Variant, WrongAnswerError
from tests.seams import peer_remembers_nothing

INSTALLED = [name for name in PEERS if not why_missing(name)]
QUICKEST = Budget(values=1, min_seconds=0.0)
# Works that take seconds.
SKIPPED = {"stampede-processes", "memory", "entries", "wrapped-follow", "wrapped-together"}
# Works with 1,000 callers, for each of which some peers open a connection.
HEAVY = {"store-batch", "stampede"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    """Return the address of the server of the benchmarks, which listens on TCP and allows DEBUG."""
    raise_file_limit()
    with running_valkey() as (endpoint, _):
        yield endpoint


def _cases() -> list[tuple[str, str, str]]:
    return [
        (name, work.name, variant.name)
        for name in INSTALLED
        for work in WORKS.values()
        for variant in _firsts(work.variants())
        if work.name not in SKIPPED
        and (work.name not in HEAVY or name in ("tiercache", "floor"))
        and work.offers(peer_class(name), variant)
    ]


def _firsts(variants: list[Variant]) -> list[Variant]:
    """Return the first variant of each level."""
    return list({variant.use: variant for variant in reversed(variants)}.values())


async def _run(name: str, work_name: str, variant_name: str, endpoint: Endpoint, peer: Any = None) -> Measured:
    work = WORKS[work_name]
    variant = next(each for each in work.variants() if each.name == variant_name)
    peer = peer or peer_class(name)()
    with Counters(endpoint) as counters:
        counters.reset()
        await peer.open(work.setting(endpoint, variant))
        try:
            measured = await work.run(peer, variant, Bench(endpoint, counters, QUICKEST, 1, name))
        finally:
            await peer.close()
    return measured[name] if isinstance(measured, dict) else measured


def test_peers_of_test_environment_are_installed() -> None:
    assert {"tiercache", "betterdb", "handmade", "floor"} <= set(INSTALLED)


@pytest.mark.filterwarnings("default")  # Other libraries may raise warnings.
@pytest.mark.parametrize(("name", "work", "variant"), _cases())
async def test_peer_does_its_works_with_right_answers(name: str, work: str, variant: str, endpoint: Endpoint) -> None:
    measured = await _run(name, work, variant, endpoint)
    assert all(value > 0 for value in measured.wall)
    assert measured.wall


async def test_peer_check_notices_wrong_answer(endpoint: Endpoint) -> None:
    peer = peer_class("handmade")()
    check = peer.check
    asked = 0

    async def check_wrongly_later(params: Any) -> Any:
        nonlocal asked
        asked += 1
        found = await check(params)
        return {"response": "another", "tokens": {}} if asked == 67 else found

    peer.check = check_wrongly_later  # type: ignore[method-assign]
    with pytest.raises(WrongAnswerError, match="answered"):
        await _run("handmade", "l1-hit", "short-1", endpoint, peer)


async def test_peer_check_notices_answer_from_other_level(endpoint: Endpoint) -> None:
    peer = peer_class("handmade")()
    peer_remembers_nothing(peer)
    with pytest.raises(WrongAnswerError, match="read Valkey 50 times"):
        await _run("handmade", "l1-hit", "short-1", endpoint, peer)


async def test_peer_check_notices_store_that_stores_nothing(endpoint: Endpoint) -> None:
    peer = peer_class("handmade")()

    async def store(params: Any, answer: Any) -> None:
        pass

    peer.store = store  # type: ignore[method-assign]
    with pytest.raises(WrongAnswerError, match=r"Valkey holds fewer|answered None"):
        await _run("handmade", "miss-store", "short", endpoint, peer)


async def test_peer_check_notices_second_call_of_loader(endpoint: Endpoint) -> None:
    peer = peer_class("handmade")()
    peer.single_flight = True  # type: ignore[misc]
    with pytest.raises(WrongAnswerError, match="called the loader"):
        await _run("handmade", "stampede", "1000", endpoint, peer)
