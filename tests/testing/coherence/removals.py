"""Ways to take a guard of coherence out of the product, from outside, and what else it takes to show that it is needed.

Each function here applies to the caches of this process that are made from then on, until the monkeypatch is undone.
Some guards have two halves, either of which nearly does for both; then the function takes out the pair.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import pytest

from tiercache.engine import invalidation, write_pipe
from tiercache.engine.announcement import Announcement, Heard, Unreadable
from tiercache.engine.coherence import Coherence
from tiercache.engine.engine import Engine
from tiercache.engine.fences import Fence, Fences
from tiercache.engine.l1 import L1
from tiercache.engine.level2 import Announce, Position
from tiercache.engine.runtime import Runtime
from tiercache.engine.write_pipe import WritePipe
from tiercache.l2 import backplane, commands
from tiercache.testing.coherence import replica, subjects

__all__ = [
    "Patch",
    "believe_for_ever",
    "drop_keys_once",
    "drop_groups_once",
    "keep_what_is_overtaken",
    "load_without_lease",
    "pass_over_the_unknown",
    "publish_before_writing",
    "speak_a_newer_version",
    "trust_after_reconnecting",
]

Patch: TypeAlias = Callable[[pytest.MonkeyPatch], None]


def keep_what_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a message of a change drop what is in L1, and leave reads and loads under way the right to store.

    With its other half: a load that Valkey has refused to store is dropped from L1.
    """
    apply = Coherence.apply

    def apply_to_l1(coherence: Coherence, event: Any) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Fences, "break_key", lambda fences, key: None)
            meanwhile.setattr(Fences, "break_group", lambda fences, group: None)
            apply(coherence, event)

    monkeypatch.setattr(Coherence, "apply", apply_to_l1)
    monkeypatch.setattr(L1, "drop_entry", lambda l1, key, entry: None)


def load_without_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every load be stored in Valkey, whatever was done to the key meanwhile elsewhere."""
    options = dataclasses.replace(subjects.OPTIONS, lease=False)
    monkeypatch.setattr(subjects, "OPTIONS", options)
    monkeypatch.setattr(replica, "OPTIONS", options)
    monkeypatch.setattr(subjects, "_HOT_KV_OPTIONS", dataclasses.replace(options, on_abandon="cancel"))


def drop_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop a key before its change and not after.

    With its other half: what is read while a write of the key is on its way is not kept.
    """

    def written(engine: Engine, runtime: Runtime, fence: Fence) -> None:
        runtime.fences.close(fence)
        if runtime.link is not None:
            runtime.link.leases.wake(fence.key)

    monkeypatch.setattr(Engine, "written", written)
    monkeypatch.setattr(WritePipe, "is_writing", lambda pipe, key: False)


def drop_groups_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop a group before its invalidation and not after."""
    drop = invalidation._drop_group
    begun: set[asyncio.Task[Any] | None] = set()

    def drop_once(engine: Engine, runtime: Runtime, group: Any, overtakes: Any) -> int:
        task = asyncio.current_task()
        if task in begun:
            begun.remove(task)
            return 0
        begun.add(task)
        return drop(engine, runtime, group, overtakes)

    monkeypatch.setattr(invalidation, "_drop_group", drop_once)


def believe_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe what is in L1, and join flights, however long nothing has been heard."""
    make = L1.__init__

    def make_trusting(l1: L1, **options: Any) -> None:
        make(l1, **{**options, "max_staleness": math.inf})

    monkeypatch.setattr(L1, "__init__", make_trusting)


def trust_after_reconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep L1 over a disconnection, whatever was said meanwhile."""

    def subscribed(coherence: Coherence, position: Position) -> None:
        coherence._position = position
        coherence._is_catching_up = True

    monkeypatch.setattr(Coherence, "subscribed", subscribed)


def publish_before_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell the others of a change of keys, and then make it."""

    async def announce_and_write(pipe: WritePipe, batch: Sequence[Any]) -> list[Any]:
        writes = [queued.write for queued in batch]
        keys = tuple(dict.fromkeys(key for write in writes for key in write_pipe._announced(write)))
        if keys:
            await pipe._level2.apply([Announce(Announcement(keys=keys))])
        return await pipe._level2.apply(writes)

    monkeypatch.setattr(WritePipe, "_apply", announce_and_write)


def pass_over_the_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a message that is not understood for one that says nothing, and count it."""
    decode = backplane.decode

    def decode_or_pass_over(message: bytes) -> Heard | Unreadable:
        event = decode(message)
        if isinstance(event, Heard):
            return event
        body = msgspec.json.decode(message)
        return Heard(Announcement(), body["o"], body["s"])

    monkeypatch.setattr(backplane, "decode", decode_or_pass_over)


def speak_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first replica that says anything say it in a form that the others do not know yet.

    Not a guard that is removed, but what one of them is for. The numbers are where they always were, so that no gap
    gives anything away.
    """
    encode = commands.encode
    newer: list[str] = []

    def encode_anew(announcement: Announcement, origin: str) -> tuple[bytes, bytes]:
        if not newer:
            newer.append(origin)
        if origin not in newer:
            return encode(announcement, origin)
        said = {"o": origin, "said": dataclasses.asdict(announcement)}
        return b'{"v":2,"s":', b"," + msgspec.json.encode(said)[1:]

    monkeypatch.setattr(commands, "encode", encode_anew)
