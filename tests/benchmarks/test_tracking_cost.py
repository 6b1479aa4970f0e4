"""The benchmark of tracking by interest: every work is measured on every cache."""

from __future__ import annotations

import pytest

from benchmarks import tracking_cost


def test_tracking_cost_measures_every_work(capsys: pytest.CaptureFixture[str]) -> None:
    tracking_cost.main(["--pairs", "2", "--count", "50"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| client CPU of | broadcast, µs | interest, µs | interest / broadcast |")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(tracking_cost.WORKS)
