"""The key of a request to a model API.

The key is the sha256 of the canonical JSON of

    {"v":1,"method":"POST","url":str,"headers":{name:value},"body":{name:str}[,"scope":str][,"raw":hex]}

1. ``url`` has no credentials (see ``target_of``).
2. ``headers`` are those of ``KEY_HEADERS`` that the request has.
3. ``body`` has each parameter that can change the answer, as compact JSON *in the caller's order*: models see a schema
   or the input of a tool in that order, and the order of a schema is the order of the answer's fields.
4. ``raw`` is the digest of the bytes of a body whose numbers lose their form in JSON (see ``Body``).

``RequestKeys`` remembers the keys of earlier requests, so that a hit parses no JSON.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cachetools import LRUCache

from ...errors import UsageError
from ...text import check_size, check_text
from ...tiers.keys.canonical_json import canonical_json, compact_json
from ...tiers.llm.entry import shared_model
from .apis import api_for
from .apis.api import Api, Question
from .request_body import UnreadableBodyError, read_body
from .target import Target, path_of, target_of

__all__ = ["KEY_HEADERS", "READ_HEADERS", "ModelRequest", "RequestKey", "RequestKeys", "question_of"]

# The headers that choose another answer. Credentials are none of them: one cache name is one trust domain.
KEY_HEADERS: Final = (
    "anthropic-version",
    "anthropic-beta",
    "openai-organization",
    "openai-project",
    "openai-beta",
    "anthropic-workspace-id",
    "anthropic-user-profile-id",
    "x-goog-user-project",
    "x-goog-fieldmask",
)
# A request with this header is no POST to Google.
_OVERRIDE: Final = "x-http-method-override"
# All headers on which a key depends: also those that decide how the body is read, and whether the request bypasses the
# cache.
READ_HEADERS: Final = (*KEY_HEADERS, "content-encoding", "content-type", _OVERRIDE)
_VERSION: Final = 1
# The most memory of one remembered key: two digests, the longest name of a model, and the places in two dicts.
_KNOWN_BYTES: Final = 1280


class ModelRequest(NamedTuple):
    """A request of a wrapped client.

    Attributes:
        method: In capital letters.
        url: The whole URL.
        headers: At least those of ``READ_HEADERS``, under names in lower case.
        body: The bytes as they are sent.
        scope: A name that keeps this request's answers apart from those of other scopes, or None.
        stateful: Whether to cache answers that depend on state at the provider, too.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    scope: str | None = None
    stateful: bool = False


class RequestKey(NamedTuple):
    """The key of a request, without the request.

    Attributes:
        api: The API that takes the request.
        digest: The sha256 in hex, the last part of the key in Valkey. Empty if the request bypasses the cache.
        model: The model that the request names, or an empty str.
        is_stream: Whether the request asks for a stream of events.
        bypass: Why the request bypasses the cache, or None.
    """

    api: Api
    digest: str
    model: str
    is_stream: bool
    bypass: str | None


class RequestKeys:
    """Finds the keys of requests, and remembers them. Safe to use from several threads.

    A key is remembered under a digest of all that the key depends on, and not under the request itself, which may have
    megabytes.

    Args:
        max_entries: Most remembered keys; at least one is remembered.
        max_bytes: Most memory that they take, in bytes.
    """

    def __init__(self, *, max_entries: int = 4096, max_bytes: int = 5 * 1024 * 1024) -> None:
        self._known: LRUCache[bytes, RequestKey] = LRUCache(max(1, min(max_entries, max_bytes // _KNOWN_BYTES)))
        self._lock = threading.Lock()

    def of(self, request: ModelRequest) -> RequestKey | None:
        """Return the key of a request, or None if no API takes it.

        Raises:
            UsageError: The scope is no str, or contains a lone surrogate.
        """
        alias = _alias(request)
        with self._lock:
            known = self._known.get(alias)
        if known is not None:
            return known
        api = api_for(request.method, path_of(request.url))
        if api is None:
            return None
        question = _question(request, api)
        digest = ""
        if question.bypass is None:
            digest = sha256(canonical_json(question.hashed, "request")).hexdigest()
        key = RequestKey(api, digest, shared_model(question.model), question.is_stream, question.bypass)
        with self._lock:
            self._known[alias] = key
        return key

    @property
    def entry_count(self) -> int:
        """How many keys are remembered."""
        return len(self._known)


def question_of(request: ModelRequest) -> Question | None:
    """Return the question of a request, with all that the key hashes, or None if no API takes the request.

    Raises:
        UsageError: The scope is no str, or contains a lone surrogate.
    """
    api = api_for(request.method, path_of(request.url))
    return None if api is None else _question(request, api)


def _alias(request: ModelRequest) -> bytes:
    """Return 32 bytes that differ between any two requests whose keys may differ."""
    headers = request.headers
    read = [headers.get(name) for name in READ_HEADERS]
    # The repr of a tuple of texts shows its own end, so that no byte of it can count as the body, and it escapes lone
    # surrogates.
    digest = sha256(repr((request.method, request.url, read, request.scope, bool(request.stateful))).encode())
    digest.update(request.body)
    return digest.digest()


def _question(request: ModelRequest, api: Api) -> Question:
    scope = None if request.scope is None else check_text(request.scope, "scope")
    if request.headers.get(_OVERRIDE):
        return _bypassed(f"the header {_OVERRIDE}")
    try:
        body = read_body(request.body, request.headers)
    except UnreadableBodyError as error:
        return _bypassed(str(error))
    target = target_of(request.url)
    question = api.question(body.value, target, stateful=request.stateful)
    try:
        check_text(question.model, "model")
        check_size(question.model, "model")
    except UsageError:
        return _bypassed("the name of the model is too long, or not Unicode")
    if question.bypass is not None:
        return question
    try:
        hashed = _hashed(request, target, question.hashed)
    except UsageError:
        return _bypassed("the request has text that is not Unicode, or is nested too deeply")
    if scope is not None:
        hashed["scope"] = scope
    if not body.is_exact:
        hashed["raw"] = sha256(request.body).hexdigest()
    return Question(hashed, question.model, question.is_stream, None)


def _hashed(request: ModelRequest, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hashed object of a request, without its scope.

    Raises:
        UsageError: The request has text that is not Unicode, or is nested too deeply.
    """
    headers = {name: request.headers[name] for name in KEY_HEADERS if name in request.headers}
    for text in (target.url, *headers.values(), *body):
        check_text(text, "request")
    texts = {name: compact_json(value, name).decode() for name, value in body.items()}
    return {"v": _VERSION, "method": request.method, "url": target.url, "headers": headers, "body": texts}


def _bypassed(reason: str) -> Question:
    return Question({}, "", False, reason)
