"""The cache that people write themselves: OrderedDict, deadlines, sha256 of canonical JSON, JSON in Valkey."""

import json
import time
from collections import OrderedDict
from typing import Any

from valkey.asyncio import Valkey

from benchmarks.data import NAME, TTL, Params, request_key
from benchmarks.peers.protocol import Keyed, Load, Setting


class Handmade(Keyed):
    title = "OrderedDict + sha256(json)"
    levels = frozenset({"l1", "l2", "memory"})
    single_flight = False

    async def open(self, setting: Setting) -> None:
        self._client = Valkey.from_url(setting.endpoint.url)
        self._entries: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._max_entries = 0 if setting.use == "l2" else setting.max_entries
        self._has_valkey = setting.use != "memory"

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, key: str) -> Any:
        entry = self._entries.get(key)
        if entry is not None:
            if entry[0] > time.monotonic():
                self._entries.move_to_end(key)
                return entry[1]
            del self._entries[key]
        raw = await self._client.get(f"{NAME}:{key}") if self._has_valkey else None
        if raw is None:
            return None
        value = json.loads(raw)
        self._remember(key, value)
        return value

    async def set(self, key: str, value: Any) -> None:
        if self._has_valkey:
            await self._client.set(f"{NAME}:{key}", json.dumps(value), ex=TTL)
        self._remember(key, value)

    async def get_many(self, keys: list[str]) -> list[Any]:
        missing = [key for key in keys if key not in self._entries]
        if missing:
            raws = await self._client.mget([f"{NAME}:{key}" for key in missing])
            read = {key: json.loads(raw) for key, raw in zip(missing, raws, strict=True) if raw is not None}
            for key, value in read.items():
                self._remember(key, value)
            return [read.get(key) if key in read else self._entries[key][1] for key in keys]
        return [self._entries[key][1] for key in keys]

    async def get_or_load(self, params: Params, load: Load) -> Any:
        key = request_key(params)
        found = await self.get(key)
        if found is None:
            found = (await load(params)).as_dict()
            await self.set(key, found)
        return found

    def _remember(self, key: str, value: Any) -> None:
        if self._max_entries:
            self._entries[key] = (time.monotonic() + TTL, value)
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
