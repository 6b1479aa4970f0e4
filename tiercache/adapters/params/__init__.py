"""Parameters for the llm tier, prepared from the requests of model APIs: the parts that the APIs share."""

from __future__ import annotations

from .options import PrepareOptions
from .prepared import PreparedParams

__all__ = ["PrepareOptions", "PreparedParams"]
