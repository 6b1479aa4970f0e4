"""The cache people write themselves: OrderedDict, deadlines, sha256 of canonical JSON, JSON in Valkey."""

import json
import time
from collections import OrderedDict
from typing import Any

from valkey.asyncio import Valkey

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import NAME, TTL, Answer, Params, request_key

_MAX_ENTRIES = 10_000


class Handmade:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        self._client = Valkey.from_url(endpoint.url)
        self._entries: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()
        self._max_entries = 0 if work is Work.L2_HIT else _MAX_ENTRIES
        self._loader = loader

    async def check(self, params: Params) -> dict[str, Any] | None:
        key = request_key(params)
        entry = self._entries.get(key)
        if entry is not None:
            if entry[0] > time.monotonic():
                self._entries.move_to_end(key)
                return entry[1]
            del self._entries[key]
        raw = await self._client.get(f"{NAME}:{key}")
        if raw is None:
            return None
        value: dict[str, Any] = json.loads(raw)
        self._remember(key, value)
        return value

    async def store(self, params: Params, answer: Answer) -> None:
        key, value = request_key(params), answer.as_dict()
        await self._client.set(f"{NAME}:{key}", json.dumps(value), ex=TTL)
        self._remember(key, value)

    async def get_or_load(self, params: Params) -> dict[str, Any]:
        found = await self.check(params)
        if found is not None:
            return found
        answer = await self._loader(params)
        await self.store(params, answer)
        return answer.as_dict()

    def answer(self, found: Any) -> Answer | None:
        return None if found is None else Answer.of_dict(found)

    async def close(self) -> None:
        await self._client.aclose()

    def _remember(self, key: str, value: dict[str, Any]) -> None:
        if self._max_entries:
            self._entries[key] = (time.monotonic() + TTL, value)
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


def make() -> Handmade:
    return Handmade()
