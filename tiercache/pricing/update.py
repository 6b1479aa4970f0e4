"""Rebuild ``prices.json``: ``python -m tiercache.pricing.update [litellm-*.whl]``.

LiteLLM ships its public price file inside its wheel. The script reads the file from the wheel and imports no code of
LiteLLM. Without an argument the script downloads the newest wheel with pip.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

__all__ = ["main"]

_PRICE_FILE: Final = "litellm/model_prices_and_context_window_backup.json"
_TARGET: Final = Path(__file__).with_name("prices.json")


def read_wheel(wheel: Path) -> dict[str, tuple[float, float]]:
    """Return (input, output) dollars for 1,000 tokens, by model, of all models that have a price per token."""
    with zipfile.ZipFile(wheel) as archive:
        models: dict[str, dict[str, Any]] = json.loads(archive.read(_PRICE_FILE))
    prices = {}
    for name, model in models.items():
        into, out_of = model.get("input_cost_per_token"), model.get("output_cost_per_token")
        if name == "sample_spec" or not isinstance(into, int | float) or not isinstance(out_of, int | float):
            continue
        if into >= 0 and out_of >= 0 and into + out_of > 0:
            prices[name] = (into * 1000, out_of * 1000)
    return prices


def main(arguments: list[str]) -> int:
    """Write the table and print the number of its models."""
    with tempfile.TemporaryDirectory() as folder:
        if arguments:
            wheel = Path(arguments[0])
        else:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", folder]
            subprocess.run([*command, "litellm"], check=True)
            (wheel,) = Path(folder).glob("litellm-*.whl")
        prices = read_wheel(wheel)
        version = wheel.name.split("-")[1]
    lines = [f"  {json.dumps(model)}: {json.dumps(price)}" for model, price in sorted(prices.items())]
    _TARGET.write_text(f'{{"source": "litellm {version}", "prices": {{\n' + ",\n".join(lines) + "\n}}\n", "utf-8")
    print(f"{len(prices)} prices from litellm {version} written to {_TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
