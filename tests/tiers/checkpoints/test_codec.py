"""The bytes of checkpoints: what is packed is unpacked, in few bytes, and other bytes are refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.seams import hide_compression_library
from tiercache.engine.entries.rules import UndecodableError
from tiercache.tiers.checkpoints.checkpoint import PendingWrite, TypedBytes
from tiercache.tiers.checkpoints.codec import Blob, CheckpointCodec, Record, RecordField
from tiercache.tiers.checkpoints.key import decode_part, encode_part, field_of
from tiercache.tiers.values.compression import Compression

CODEC = CheckpointCodec(Compression(above=None, max_bytes=None, as_text=False))
RECORD = Record(
    "run 1",
    [RecordField(field_of("messages", 3 << 40), True), RecordField(field_of("a\0b%", "v1"), False)],
    "parent",
    TypedBytes("msgpack", b"\x81" * 300),
    TypedBytes("other kind", b"metadata"),
)


def field(number: int) -> bytes:
    return b"b\0\0" + field_of("messages", number)


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def chain(count: int, step: int) -> tuple[dict[bytes, bytes], list[Blob]]:
    """Return the stored bytes of a value that grows ``count`` times by ``step`` bytes, and its blobs."""
    stored: dict[bytes, bytes] = {}
    blobs: list[Blob] = []
    plain = b"m"
    for number in range(count):
        plain += random_bytes(step, number)
        base = (field(number - 1)[len(b"b\0\0messages\0") :], blobs[-1]) if blobs else None
        stored[field(number)], blob = CODEC.pack_blob(plain, base)
        blobs.append(blob)
    return stored, blobs


def test_record_is_unpacked_as_it_was_packed() -> None:
    assert CODEC.unpack_record(CODEC.pack_record(RECORD)) == RECORD
    assert [each.channel for each in RECORD.fields] == ["messages", "a\0b%"]
    empty = Record("", [], None, TypedBytes("json", b""), TypedBytes("json", b""))
    assert CODEC.unpack_record(CODEC.pack_record(empty)) == empty


@pytest.mark.parametrize("kind", ["msgpack", "null", "bytes", "bytearray", "json", "msgpack+aes", "m", ""])
@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_blob_of_any_kind_is_unpacked_as_it_was_packed(kind: str, size: int) -> None:
    value = TypedBytes(kind, random_bytes(size))
    stored, blob = CODEC.pack_blob(CODEC.plain(value), None)
    assert blob.value == value
    assert CODEC.unpack_blob(field(1), {field(1): stored}, {}).value == value


def test_blob_that_repeats_its_base_is_stored_as_a_difference() -> None:
    stored, blobs = chain(70, 100)
    assert all(len(data) < 200 for data in list(stored.values())[1:60])
    assert max(blob.depth for blob in blobs) == 64
    assert [blob.depth for blob in blobs[63:67]] == [63, 64, 0, 1]
    for number, blob in enumerate(blobs):
        assert CODEC.unpack_blob(field(number), stored, {}) == blob


def test_difference_of_a_large_blob_reaches_back_to_the_beginning_of_its_base() -> None:
    before = b"m" + random_bytes(2_000_000)
    first, base = CODEC.pack_blob(before, None)
    stored, _ = CODEC.pack_blob(before + b"more", (field_of("c", 1)[2:], base))
    assert len(first) > 2_000_000
    assert len(stored) < 5_000


def test_chain_of_large_blobs_is_short() -> None:
    _, blobs = chain(12, 400_000)
    assert max(blob.depth for blob in blobs) < 12


def test_pending_write_is_unpacked_as_it_was_packed() -> None:
    write = PendingWrite("task\0 1%", -3, "__error__", TypedBytes("json", b"x" * 500), "path")
    assert CODEC.unpack_write(*CODEC.pack_write(write)) == write


def test_codec_without_the_library_stores_everything_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = CODEC.pack_record(RECORD)
    hide_compression_library(monkeypatch)
    assert CODEC.unpack_record(CODEC.pack_record(RECORD)) == RECORD
    stored, blobs = chain(3, 100)
    assert [CODEC.unpack_blob(each, stored, {}) for each in stored] == blobs
    with pytest.raises(UndecodableError, match="library"):
        CODEC.unpack_record(compressed)


# Other bytes


def test_every_changed_byte_of_a_record_is_noticed() -> None:
    data = CODEC.pack_record(RECORD)
    for at in range(len(data)):
        for changed in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:at]):
            with pytest.raises(UndecodableError):
                CODEC.unpack_record(changed)


@pytest.mark.parametrize("plain", [b"mshort", b"m" + b"repeated " * 50])
def test_every_changed_byte_of_a_blob_is_noticed_or_without_effect(plain: bytes) -> None:
    data, blob = CODEC.pack_blob(plain, None)
    for at in range(len(data)):
        for changed in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:at]):
            try:
                assert CODEC.unpack_blob(field(1), {field(1): changed}, {}) == blob
            except UndecodableError:
                continue


def test_difference_on_another_base_is_noticed() -> None:
    stored, _ = chain(3, 200)
    other, _ = CODEC.pack_blob(b"m" + random_bytes(200, 99), None)
    with pytest.raises(UndecodableError):
        CODEC.unpack_blob(field(2), {**stored, field(0): other}, {})
    del stored[field(0)]
    with pytest.raises(UndecodableError, match="gone"):
        CODEC.unpack_blob(field(2), stored, {})


def test_chain_that_leads_back_to_itself_is_refused() -> None:
    stored, _ = chain(2, 200)
    version = field(1)[len(b"b\0\0messages\0") :]
    stored[field(1)] = b"d\1" + bytes([len(version)]) + version + b"x"
    with pytest.raises(UndecodableError, match="too long"):
        CODEC.unpack_blob(field(1), stored, {})


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_raise_nothing_but_the_documented_error(data: bytes) -> None:
    for unpack in (
        lambda: CODEC.unpack_record(data),
        lambda: CODEC.unpack_record(CODEC.pack_record(RECORD)[:9] + data),
        lambda: CODEC.unpack_blob(field(1), {field(1): data}, {}),
        lambda: CODEC.unpack_blob(field(1), {field(1): b"d" + data}, {}),
        lambda: CODEC.unpack_write(data, data),
        lambda: CODEC.unpack_write(b"task\0" + b"1", b"r" + data),
    ):
        with pytest.raises(UndecodableError):
            unpack()


@given(st.text())
def test_part_of_a_field_has_no_nul_and_is_decoded_to_the_same_text(text: str) -> None:
    try:
        encoded = encode_part(text)
    except UnicodeEncodeError:
        return  # The tier refuses lone surrogates before.
    assert b"\0" not in encoded
    assert decode_part(encoded) == text


def test_versions_of_different_types_have_different_fields() -> None:
    versions = [0, 1, 256, 1 << 63, "1", "01", 1.5, -1]
    assert len({field_of("c", version) for version in versions}) == len(versions)
