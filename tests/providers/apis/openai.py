"""Headers and errors that the APIs of OpenAI share. https://platform.openai.com/docs/api-reference"""

from __future__ import annotations

from typing import Any

from tests.providers.apis.api import Api, Reply, token

__all__ = ["OpenAiApi"]

_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class OpenAiApi(Api):
    """An API of OpenAI."""

    def error(self, status: int, message: str) -> dict[str, Any]:
        kind = _TYPES.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}

    def headers(self, reply: Reply | None) -> list[tuple[str, str]]:
        left = 9_999 - (reply.number if reply is not None else 0)
        return [
            ("openai-organization", "org-tests"),
            ("openai-processing-ms", "12"),
            ("openai-version", "2020-10-01"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", str(left)),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-request-id", token("req_", 32)),
            ("set-cookie", f"__cf_bm={token('', 43)}; path=/; HttpOnly; Secure; SameSite=None"),
            ("cf-ray", token("", 16).lower() + "-FRA"),
        ]
