"""The price of a model's tokens, and the cost of an answer.

The bundled table, ``prices.json``, comes from LiteLLM's public price file; ``python -m tiercache.pricing.update``
rebuilds the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from ..errors import UsageError

__all__ = ["DEFAULT_COST_TABLE", "ModelPrice", "PriceTable"]


class ModelPrice(NamedTuple):
    """Dollars for 1,000 input tokens and for 1,000 output tokens of a model."""

    input_per_1k: float
    output_per_1k: float


@cache
def _bundled() -> dict[str, ModelPrice]:
    text = files("tiercache.pricing").joinpath("prices.json").read_text("utf-8")
    return {model: ModelPrice(*price) for model, price in json.loads(text)["prices"].items()}


class _BundledTable(Mapping[str, ModelPrice]):
    """The bundled prices, read from the file at the first access."""

    def __getitem__(self, model: str) -> ModelPrice:
        return _bundled()[model]

    def __iter__(self) -> Iterator[str]:
        return iter(_bundled())

    def __len__(self) -> int:
        return len(_bundled())


DEFAULT_COST_TABLE: Final[Mapping[str, ModelPrice]] = _BundledTable()


class PriceTable:
    """The prices that one cache uses.

    Args:
        overrides: Prices that override the bundled prices: ``{"my-model": (0.001, 0.002)}``.
        use_default: False leaves the bundled table out.

    Raises:
        UsageError: A price is not a pair of amounts of money.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice | tuple[float, float]] | None, *, use_default: bool) -> None:
        if overrides is not None and not isinstance(overrides, Mapping):
            raise UsageError(f"prices must be a mapping of models to prices, not {type(overrides).__name__}")
        self._overrides = {model: _checked(model, price) for model, price in (overrides or {}).items()}
        self._default: Mapping[str, ModelPrice] = DEFAULT_COST_TABLE if use_default else {}

    @property
    def uses_default(self) -> bool:
        """Whether the bundled table is in use."""
        return self._default is DEFAULT_COST_TABLE

    @property
    def has_prices(self) -> bool:
        """Whether the cache knows any price."""
        return self.uses_default or bool(self._overrides)

    def cost(self, model: str, tokens: Mapping[str, Any]) -> float | None:
        """Return the dollars that ``tokens`` cost, or None without a price or without any token count."""
        if "input" not in tokens and "output" not in tokens:
            return None
        price = self._overrides.get(model) or self._default.get(model)
        if price is None:
            return None
        # betterdb-agent-cache adds the terms in this order, and another order would round differently.
        cost: float = (tokens.get("input", 0) / 1000) * price.input_per_1k
        cost += (tokens.get("output", 0) / 1000) * price.output_per_1k
        return cost


def _checked(model: str, price: object) -> ModelPrice:
    try:
        checked = ModelPrice(*map(float, price))  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"prices[{model!r}] must be (input_per_1k, output_per_1k), not {price!r}") from error
    if not all(0 <= amount < math.inf for amount in checked):
        raise UsageError(f"prices[{model!r}] must be amounts of money, not {price!r}")
    return checked
