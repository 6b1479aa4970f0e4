"""The surroundings of one probe: a store, a model provider, the product, and other processes with the same product."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.comparison.model import Model
from benchmarks.comparison.product import Answers, Product, Question, Setting
from benchmarks.server import running_valkey

PATIENCE = 15.0
"""Seconds after which a probe calls a call hung."""


@dataclass
class Store:
    """A store that belongs to one probe."""

    url: str
    process_id: int

    def kill(self) -> None:
        """End the store at once."""
        os.kill(self.process_id, signal.SIGKILL)

    def hang(self) -> None:
        """Stop the store without closing its connections."""
        os.kill(self.process_id, signal.SIGSTOP)


class Bench:
    """The surroundings of one probe of the product ``name``; ``mark`` is a random text in every question."""

    def __init__(self, name: str, product: type[Product], store: Store, model: Model) -> None:
        self.product = product
        self.store = store
        self.model = model
        self.mark = secrets.token_hex(4)
        self._name = name

    @contextlib.asynccontextmanager
    async def opened(self, *, ttl: int | None = None, tag: str | None = None) -> AsyncIterator[Answers]:
        """Open the product; close it on exit, even where its store is gone."""
        product = self.product()
        assert isinstance(product, Answers)
        await product.open(self.setting(ttl=ttl, tag=tag))
        try:
            yield product
        finally:
            # A library whose store is gone may fail to close.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(product.close(), PATIENCE)

    def setting(self, *, ttl: int | None = None, tag: str | None = None) -> Setting:
        """Return how the product is set up."""
        return Setting(self.store.url, self.model.url, ttl, tag)

    def question(self, text: str = "Where is my order?", **changes: Any) -> Question:
        """Return a request that no other probe makes: some products keep answers for as long as the process lives."""
        messages = [{"role": "user", "content": f"{text} ({self.mark})"}]
        return {"model": "gpt-4o", "messages": messages, **changes}

    @contextlib.asynccontextmanager
    async def other_process(self, *, tag: str | None = None) -> AsyncIterator["OtherProcess"]:
        """Start a process that has the product open on the same store; end it on exit."""
        setting = json.dumps(asdict(self.setting(tag=tag)))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.comparison.child", self._name, setting),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            other = OtherProcess(process)
            await other.answer()
            yield other
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PATIENCE)
            if process.returncode is None:
                process.kill()
                await process.wait()


class OtherProcess:
    """A process that asks when it is asked to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answers = process.stdin, process.stdout

    def order(self, question: Question, callers: int = 1) -> None:
        """Let ``callers`` callers ask at once."""
        self._orders.write(json.dumps({"question": question, "callers": callers}).encode() + b"\n")

    async def answer(self) -> list[Any]:
        """Return the texts of the answers to the oldest order; the first call returns when the process is ready.

        Raises:
            RuntimeError: A call failed, or the process ended.
        """
        line = await asyncio.wait_for(self._answers.readline(), 4 * PATIENCE)
        found = json.loads(line) if line else {"error": "the process ended"}
        if "error" in found:
            raise RuntimeError(found["error"])
        texts: list[Any] = found["texts"]
        return texts

    async def ask(self, question: Question) -> str:
        """Ask once and return the text of the answer."""
        self.order(question)
        return str((await self.answer())[0])


def calls(number: int) -> str:
    """Return a number of calls in words."""
    return "1 call" if number == 1 else f"{number} calls"


def reason_of(error: Exception) -> str:
    """Return the text of an error on one line; of the refusal of a command only the part with its name."""
    text = str(error).split(", with args")[0]
    return " ".join(text[max(text.find("unknown command"), 0) :].split())[:120]


@contextlib.contextmanager
def running_store(*, emulated: bool) -> Iterator[Store]:
    """Start a private Valkey, or an emulation of Redis with its modules; stop it on exit."""
    if emulated:
        with _emulation() as store:
            yield store
        return
    with running_valkey() as (endpoint, process_id):
        store = Store(endpoint.url, process_id)
        try:
            yield store
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGCONT)


@contextlib.contextmanager
def _emulation() -> Iterator[Store]:
    command = [sys.executable, "-m", "benchmarks.comparison.emulation"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield Store(f"redis://127.0.0.1:{int(process.stdout.readline())}/0", process.pid)
        finally:
            process.kill()
