"""The bundled workload: always the same, as repetitive as Zipf's law, and made of all kinds of requests."""

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from tiercache import DEFAULT_COST_TABLE
from tiercache.cli.demo.answers import answer, digest_of
from tiercache.cli.demo.bundled import bundled
from tiercache.cli.demo.workload import HOT_COUNT, build_catalog, build_trace

CATALOG = build_catalog()
PARAMS = [request.params() for request in CATALOG]

FINGERPRINT = """
import hashlib
from tiercache.cli.demo.workload import build_catalog, build_trace
catalog = build_catalog()
trace = build_trace(len(catalog), 1000, seed=5, burst=32)
print(hashlib.sha256(repr(([r.body for r in catalog], trace)).encode()).hexdigest())
"""


def test_workload_is_the_same_in_every_process() -> None:
    prints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(prints) == 1


def test_trace_differs_with_the_seed() -> None:
    assert build_trace(600, 500, seed=1) == build_trace(600, 500, seed=1)
    assert build_trace(600, 500, seed=1) != build_trace(600, 500, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_trace_gives_a_tenth_of_the_requests_more_than_half_of_the_traffic(seed: int) -> None:
    trace = build_trace(len(CATALOG), 4000, seed, burst=128)
    counts = Counter(trace).most_common()
    top = sum(count for _, count in counts[: len(counts) // 10])
    assert top > len(trace) / 2
    assert counts[0][1] < len(trace) / 5


def test_trace_opens_with_a_burst_of_the_most_popular_requests() -> None:
    trace = build_trace(len(CATALOG), 4000, seed=1, burst=128)
    assert len(trace) == 4000
    assert len(set(trace[:128])) <= HOT_COUNT < len(set(trace[128:256]))


@pytest.mark.parametrize("request_count", [1, 2, 3, 7])
def test_trace_keeps_its_length_with_a_longer_burst(request_count: int) -> None:
    assert len(build_trace(len(CATALOG), request_count, seed=1, burst=1000)) == request_count


def test_catalog_has_several_hundred_distinct_requests() -> None:
    assert 500 <= len(CATALOG) <= 1000
    assert len({digest_of(params) for params in PARAMS}) == len(CATALOG)


def test_catalog_has_every_kind() -> None:
    kinds = Counter(request.kind for request in CATALOG)
    assert set(kinds) == {"triage", "code", "retrieval", "chat", "tools"}
    assert min(kinds.values()) >= 50


def test_catalog_has_short_prompts_and_long_chats() -> None:
    for request, params in zip(CATALOG, PARAMS, strict=True):
        if request.kind in ("triage", "code"):
            assert len(request.body) < 1024
        if request.kind == "chat":
            assert 8 <= len(params["messages"]) - 1 <= 20
            assert 3000 < len(request.body) < 10_000


def test_catalog_has_tool_requests_for_calls_and_for_text() -> None:
    answers = [answer(params) for request, params in zip(CATALOG, PARAMS, strict=True) if request.kind == "tools"]
    assert {reply.tool_call is None for reply in answers} == {True, False}


def test_model_has_a_price_and_a_speed() -> None:
    models = {params["model"] for params in PARAMS}
    assert models <= set(DEFAULT_COST_TABLE)
    assert models == set(bundled("models"))


def test_params_are_new_objects_at_every_use() -> None:
    request = CATALOG[0]
    first, second = request.params(), request.params()
    assert first == second
    assert first["messages"][0] is not second["messages"][0]


def test_messages_have_the_order_of_a_conversation() -> None:
    for params in PARAMS:
        roles = [message["role"] for message in params["messages"]]
        assert roles[0] == "system"
        assert roles[-1] in ("user", "tool")
        assert all(a != b for a, b in pairwise(roles))


def test_body_has_the_bytes_of_the_params() -> None:
    assert all(msgspec.json.decode(request.body) == params for request, params in zip(CATALOG, PARAMS, strict=True))
