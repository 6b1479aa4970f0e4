"""The figures of the page about capacity: every figure is measured."""

from __future__ import annotations

import pytest

from benchmarks import capacity


def test_capacity_measures_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main(["--caches", "1", "3", "--rounds", "1", "--short"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| cost | N = 1 | N = 3 |"
    figures = [line for line in lines if line.startswith("|") and not line.startswith(("| cost", "|---"))]
    assert len(figures) == 4 + 3 + 4 + 2
    for name in (
        "an idle fleet",
        "an idle process",
        "one load for which all processes wait",
        "`set_policy`",
        "10,000 items",
        "by tag, 1,000 entries",
        "a key that one process has read",
        "each further process",
    ):
        assert sum(name in figure for figure in figures) == 1
