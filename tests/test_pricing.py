"""The bundled price table, and the script that rebuilds it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.seams import redirect_prices
from tiercache import DEFAULT_COST_TABLE, ModelPrice
from tiercache.pricing import update


def test_price_table_has_the_popular_models() -> None:
    assert len(DEFAULT_COST_TABLE) >= 1900
    assert DEFAULT_COST_TABLE["gpt-4o"] == ModelPrice(0.0025, 0.01)
    assert {"gpt-4o-mini", "claude-sonnet-4-5", "gemini/gemini-2.5-pro"} <= set(DEFAULT_COST_TABLE)
    assert "sample_spec" not in DEFAULT_COST_TABLE
    for price in DEFAULT_COST_TABLE.values():
        assert price.input_per_1k >= 0
        assert price.output_per_1k >= 0
        assert sum(price) > 0


def test_price_update_reads_a_wheel_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {
        "sample_spec": {"input_cost_per_token": 1, "output_cost_per_token": 1},
        "b": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "mode": "chat"},
        "a": {"input_cost_per_token": 0, "output_cost_per_token": 1e-05},
        "free": {"input_cost_per_token": 0, "output_cost_per_token": 0},
        "by the image": {"input_cost_per_image": 1},
        "half": {"input_cost_per_token": 1e-06, "output_cost_per_token": None},
        "negative": {"input_cost_per_token": -1, "output_cost_per_token": 2},
    }
    wheel = tmp_path / "litellm-9.8.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("litellm/model_prices_and_context_window_backup.json", json.dumps(models))
        archive.writestr("litellm/__init__.py", "raise AssertionError('imported')")
    target = tmp_path / "prices.json"
    redirect_prices(monkeypatch, target)
    assert update.main([str(wheel)]) == 0
    assert json.loads(target.read_text()) == {
        "source": "litellm 9.8.7",
        "prices": {"a": [0, 0.01], "b": [0.0025, 0.01]},
    }
    assert "2 prices from litellm 9.8.7" in capsys.readouterr().out
