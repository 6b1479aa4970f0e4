"""The comparison of two checkouts: every row does the work that its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import checkouts

ROOT = str(Path(__file__).parent.parent.parent)


def test_checkouts_compares_a_checkout_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    checkouts.main([ROOT, ROOT, "--rounds", "1", "--only", "no Valkey"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(lines) == sum("no Valkey" in name for name in checkouts.ROWS) == 3
    for *_, old, ratio, again in lines:
        assert float(old) > 0
        assert 0 < float(ratio) < 100
        assert 0 < float(again) < 100


def test_checkouts_refuses_a_row_whose_steps_were_answered_otherwise() -> None:
    class _Cache:
        class _Stats:
            tiers: dict[str, object] = {}  # noqa: RUF012

        def local_stats(self) -> _Stats:
            return self._Stats()

    with pytest.raises(AssertionError, match="too few l2_hits"):
        checkouts.check_work("L2 kv.get", _Cache(), 1)
