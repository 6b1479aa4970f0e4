"""The model APIs whose answers are cached, one module for each. They import no SDK and no HTTP library."""

from __future__ import annotations

from typing import Final

from .api import Api
from .chat import Chat
from .embeddings import Embeddings
from .gemini import Gemini
from .messages import Messages
from .responses import Responses

__all__ = ["APIS", "api_for"]

APIS: Final[tuple[Api, ...]] = (Chat(), Responses(), Embeddings(), Messages(), Gemini())


def api_for(method: str, path: str) -> Api | None:
    """Return the API that takes a request, or None: such a request passes by the cache.

    Args:
        method: The method in capital letters.
        path: The path of the URL, as the caller gave it.
    """
    if method != "POST":
        return None
    for api in APIS:
        if api.takes(path):
            return api
    return None
