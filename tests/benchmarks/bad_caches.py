"""Caches with defects, which the probes of the comparison must notice."""

from __future__ import annotations

import asyncio
import json
import pickle
import urllib.request
from typing import Any

from valkey.asyncio import Valkey

from benchmarks.comparison.product import Answers, Question, Reply, Setting, reply_of


class Uncached(Answers):
    """No cache: each call asks the model."""

    title = "uncached"
    distributions = ()

    async def open(self, setting: Setting) -> None:
        self._setting = setting

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        return await asyncio.to_thread(self.ask_plain, question, base=base)

    def ask_plain(self, question: Question, *, base: str | None = None) -> Reply:
        return reply_of(json.loads(self._asked(question, base)))

    async def stream(self, question: Question) -> list[str]:
        body = await asyncio.to_thread(self._asked, question | {"stream": True})
        return [line for line in body.decode().splitlines() if line]

    def _asked(self, question: Question, base: str | None = None) -> bytes:
        url = f"{base or self._setting.model_url}/chat/completions"
        request = urllib.request.Request(url, json.dumps(question).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            body: bytes = response.read()
        return body


class Careless(Uncached):
    """A cache with every defect: its key is the last question, and it keeps only the text of an answer, in a pickle.

    It asks the store without a lock, passes the errors of the store on, ignores lifetimes, and invalidates nothing.
    """

    title = "careless"

    async def open(self, setting: Setting) -> None:
        await super().open(setting)
        self._store = Valkey.from_url(setting.valkey_url, socket_timeout=1)

    async def close(self) -> None:
        await self._store.aclose()

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        text = question["messages"][-1]["content"]
        key = text if isinstance(text, str) else text[0]["text"]
        found: Any = await self._store.get(key)
        if found is not None:
            return Reply(texts=(pickle.loads(found),))
        reply = await super().ask(question, base=base)
        await self._store.set(key, pickle.dumps(reply.texts[0]))
        return reply

    async def stream(self, question: Question) -> list[str]:
        found: Any = await self._store.get("stream")
        if found is not None:
            return [found.decode()]
        events = await super().stream(question)
        await self._store.set("stream", "".join(events))
        return events

    async def invalidate_entry(self, question: Question) -> None:
        """Do nothing."""

    async def statistics(self) -> dict[str, int]:
        return {"hits": 0}


class Modules(Careless):
    """A cache that needs a module of the server."""

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        await self._store.execute_command("JSON.GET", "key")
        return await super().ask(question, base=base)


class Emulated(Careless):
    """A cache whose probes run on the emulation."""

    needs_modules = True
