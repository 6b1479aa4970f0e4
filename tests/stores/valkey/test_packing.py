"""Packed commands: the bytes are the ones that libvalkey makes."""

from __future__ import annotations

from typing import Any

import pytest
from libvalkey import pack_command

from tiercache.engine.level2.writes import TakeLease, WriteSet
from tiercache.stores.valkey.packing import TRANSACTION_COUNT, pack, packed_pttl, packed_set, packed_take

KEY = "test:kv:é€"
VALUE = b"s\x00\r\n$3\r\n%b\xff"


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (WriteSet(KEY, VALUE, None), ()),
        (WriteSet(KEY, b"", 1.5), ("PX", 1500)),
        (WriteSet(KEY, VALUE, None, replaces=b"%d"), ("IFEQ", b"%d")),
        (WriteSet(KEY, VALUE, 3600, replaces=b""), ("IFEQ", b"", "PX", 3_600_000)),
        (WriteSet(KEY, VALUE, 60, replaces=b"x", keeps_expiry=True), ("IFEQ", b"x", "KEEPTTL")),
    ],
)
def test_packed_set_has_the_bytes_of_its_command(write: WriteSet, options: tuple[Any, ...]) -> None:
    command = ("SET", write.key, write.value, *options)
    assert packed_set(write, registers=False) == pack_command(command)
    transaction = [("MULTI",), command, ("PTTL", write.key), ("EXEC",)]
    assert len(transaction) == TRANSACTION_COUNT
    assert packed_set(write, registers=True) == pack(transaction)


def test_packed_lease_has_the_bytes_of_its_command() -> None:
    command = ("SET", KEY, VALUE, "NX", "GET", "PX", 10_000)
    assert packed_take(TakeLease(KEY, VALUE, 10)) == pack_command(command)
    assert packed_pttl(KEY) == pack_command(("PTTL", KEY))


def test_pack_leaves_packed_commands_as_they_are() -> None:
    assert pack([b"*1\r\n", ("PING",), b"$2\r\n"]) == b"*1\r\n" + pack_command(("PING",)) + b"$2\r\n"
    assert pack([VALUE]) == VALUE
