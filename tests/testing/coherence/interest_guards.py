"""The guards of tracking by interest: for each a patch that removes the guard.

Without its guard, a process does not notice a change that other software makes, because the server no longer tracks a
key that L1 holds, and the process does not know that.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest

from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.reports import Reports
from tiercache.engine.level2.writes import TakeLease, WriteSet
from tiercache.errors import TierCacheError
from tiercache.stores.valkey import commands, packing, tracking
from tiercache.stores.valkey.commands import WriteCommands
from tiercache.tiers.session import in_valkey
from tiercache.tiers.session.scripts import session_script

__all__ = [
    "believe_in_a_full_table",
    "ping_without_tracking",
    "slide_without_a_read",
    "store_without_a_read",
    "take_leases_without_a_read",
    "trust_a_new_connection_of_the_writes",
]


def take_leases_without_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not register the key of a load in progress."""
    of = WriteCommands.of

    def of_without_read(writer: WriteCommands, write: Any) -> Any:
        own = of(writer, write)
        return own[:1] if isinstance(write, TakeLease) else own

    monkeypatch.setattr(WriteCommands, "of", of_without_read)


def store_without_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not register the key of a stored value: read another key behind its SET."""

    def set_and_read_another(write: WriteSet, *, registers: bool) -> bytes:
        packed = packing.packed_set(write, registers=registers)
        return packed.replace(packing.packed_pttl(write.key), packing.packed_pttl("another"))

    monkeypatch.setattr(commands, "packed_set", set_and_read_another)


def slide_without_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not register a session field that the process has set or renewed."""

    def without_track(name: str) -> str:
        before, track, after = session_script(name).partition("local function track(key) redis.call('PTTL', key) end")
        assert track
        return f"{before}local function track(key) end{after}"

    monkeypatch.setattr(in_valkey, "session_script", without_track)


def trust_a_new_connection_of_the_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep L1 although the server has forgotten which keys it holds."""
    answered = Reports._answered

    def answered_in_trust(reports: Reports, outcome: Any) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Coherence, "distrust", lambda coherence, reason: None)
            answered(reports, outcome)

    monkeypatch.setattr(Reports, "_answered", answered_in_trust)


def ping_without_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send each PING, whether or not the server still tracks."""
    turn_on = Reports.turn_on

    async def claim(reports: Reports, subscription: Any) -> bool:
        with suppress(TierCacheError):
            await turn_on(reports, subscription)
        return True

    monkeypatch.setattr(Reports, "turn_on", claim)


def believe_in_a_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Track by interest however many keys the server tracks."""
    monkeypatch.setattr(tracking, "_ROOM_KEYS", -math.inf)
