"""The sampler: reads the entries in Valkey again and again, without cache and proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import zip_longest
from typing import Self

from ...errors import TierCacheError
from .database import connect
from .history import Event, Sample
from .settings import CACHE_NAME
from .subjects import SUBJECTS

__all__ = ["Sampler"]

_PAUSE = 0.004


class Sampler:
    """Reads every subject's key on the server at ``url`` until the end of ``async with``.

    Of equal samples in a row the sampler records only the first and the last: a value that is too old at some moment is
    also too old at the last moment at which it is seen.
    """

    def __init__(self, url: str, record: Callable[[Event], None]) -> None:
        self._server = connect(url, timeout=1.0)
        self._record = record
        self._keys: list[str] = []
        self._last: list[Sample] = []

    async def __aenter__(self) -> Self:
        self._keys = [await subject.valkey_key(CACHE_NAME) for subject in SUBJECTS]
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for sample in self._last:
            self._record(sample)
        await self._server.aclose()

    async def versions(self) -> dict[str, int | None]:
        """Return the version of each subject in Valkey. Raises the errors of ``ValkeyLevel2.execute``."""
        return {sample.key: sample.version for sample in await self._samples()}

    async def _samples(self) -> list[Sample]:
        began = time.monotonic()
        (reply,) = await self._server.execute([("MGET", *self._keys)])
        if isinstance(reply, Exception):
            raise reply
        return [
            Sample(subject.name, began, *subject.split(None if data is None else subject.decode(data)))
            for subject, data in zip(SUBJECTS, reply, strict=True)
        ]

    async def _run(self) -> None:
        while True:
            try:
                samples = await self._samples()
            except TierCacheError:
                samples = []  # A restart of Valkey is in progress.
            self._take(samples)
            await asyncio.sleep(_PAUSE)

    def _take(self, samples: list[Sample]) -> None:
        for before, sample in zip_longest(self._last, samples):
            if before is None or sample is None or (before.version, before.entry) != (sample.version, sample.entry):
                for seen in filter(None, (before, sample)):
                    self._record(seen)
        self._last = samples
