"""The bundled prices, under betterdb-agent-cache's name of the module."""

from ...pricing.prices import DEFAULT_COST_TABLE

__all__ = ["DEFAULT_COST_TABLE"]
