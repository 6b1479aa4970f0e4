"""The latency of small calls beside large values: every figure is measured, and no call fails."""

from __future__ import annotations

import pytest

from benchmarks import large_values


def test_large_values_measures_every_call_and_none_fails(capsys: pytest.CaptureFixture[str]) -> None:
    large_values.main(["--short"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        state for state, count in zip(large_values.STATES, (4, 5, 5, 5), strict=True) for _ in range(count)
    ]
    for name in ("`kv.delete`", "`session.set`", "hit in L2", "lease renewal"):
        assert sum(line.startswith(f"| {name} | ") for line in lines) == len(large_values.STATES)
    assert "interest: p50" in lines[0]
    assert "broadcast: p50" in lines[0]
    assert not [line for line in lines[2:] if line.count("| 0 of ") != len(large_values.KINDS)]


def test_large_values_counts_failed_calls() -> None:
    calls = large_values.Calls()
    with calls.timed():
        pass
    with calls.timed():
        raise large_values.WrongValueError
    assert (len(calls.seconds), calls.failed) == (1, 1)
    assert calls.at(0.5) == calls.at(1.0) >= 0
