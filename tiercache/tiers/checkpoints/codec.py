"""The form of records, blobs and pending writes in Valkey.

    record = digest of all that follows (8 bytes), form (1), run, count (2 bytes), fields, packed content
        run = its length (2 bytes) and its text
        field = 1 if the channel certainly has a value, else 0 (1 byte); length (2 bytes); channel NUL version
        content = MessagePack of [parent, kind and data of the checkpoint, kind and data of the metadata]
    packed = r, CRC-32 (4 bytes), bytes; or z and a zstd frame, whose prefix is the text in ``TYPICAL``
    blob = packed; or d, depth (1 byte), length (1 byte) and version of the base, and a zstd frame, whose prefix is the
        plain bytes of the base. The plain bytes are the letter of the kind and the data.
    pending write = packed MessagePack of [channel, kind, data, task path]

A base is the blob of an earlier version of the same channel. The depth is the number of blobs that must be read before.
All zstd frames have a checksum: bytes that are damaged, or follow another base, are never decoded to another value.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from ...engine.entries.rules import UndecodableError
from ..values.compression import Compression
from .checkpoint import PendingWrite, TypedBytes
from .key import decode_part, encode_part
from .typical import TYPICAL

__all__ = ["Blob", "CheckpointCodec", "Record", "RecordField"]

_NUL: Final = b"\0"
_FORM: Final = b"\1"
_DIGEST_BYTES: Final = 8
# Most blobs in a chain, and most plain bytes that a reader of a chain decodes. Both bound the time of a read.
_MAX_DEPTH: Final = 64
_MAX_CHAIN_BYTES: Final = 16 * 1024 * 1024
# A frame needs some 13 bytes by itself, and a prefix must have 8.
_COMPRESSED_FROM: Final = 48
_SHORTEST_PREFIX: Final = 8

# One letter for the kinds of LangGraph's serializer that come most often.
_LETTERS: Final = {"msgpack": b"m", "json": b"j", "bytes": b"b", "bytearray": b"a", "null": b"n"}
_KINDS: Final = {letter: kind for kind, letter in _LETTERS.items()}

_CONTENT: Final = msgspec.msgpack.Decoder(tuple[str | None, str, bytes, str, bytes])
_WRITE: Final = msgspec.msgpack.Decoder(tuple[str, str, bytes, str])


class RecordField(NamedTuple):
    """A channel of a checkpoint.

    Attributes:
        suffix: The end of the field of its blob, made by ``field_of``.
        has_value: Whether the channel certainly has a value. If not, the value may be absent.
    """

    suffix: bytes
    has_value: bool

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return decode_part(self.suffix.partition(_NUL)[0])


class Record(NamedTuple):
    """The content of a checkpoint without the values of its channels."""

    run_id: str
    fields: Sequence[RecordField]
    parent: str | None
    checkpoint: TypedBytes
    metadata: TypedBytes


class Blob(NamedTuple):
    """The value of a channel.

    Attributes:
        plain: The letter of the kind, and the data.
        depth: The number of blobs on which the stored form depends.
    """

    plain: bytes
    depth: int

    @property
    def value(self) -> TypedBytes:
        """The value as it was stored."""
        kind = _KINDS.get(self.plain[:1])
        if kind is not None:
            return TypedBytes(kind, self.plain[1:])
        name, _, data = self.plain[1:].partition(_NUL)
        return TypedBytes(name.decode(), data)


class CheckpointCodec:
    """Packs and unpacks the parts of checkpoints.

    Every method that unpacks raises:
        UndecodableError: The bytes are damaged, or of another form, or too large.

    Args:
        compression: Makes and reads the zstd frames. Without the library everything is stored as it is.
    """

    def __init__(self, compression: Compression) -> None:
        self._compression = compression

    # Records

    def pack_record(self, record: Record) -> bytes:
        """Return the bytes of a record; they begin with their digest."""
        run = record.run_id.encode()
        parts = [_FORM, struct.pack(">H", len(run)), run, struct.pack(">H", len(record.fields))]
        for suffix, has_value in record.fields:
            parts += [struct.pack(">BH", has_value, len(suffix)), suffix]
        content = (record.parent, *record.checkpoint, *record.metadata)
        body = b"".join([*parts, self._pack(msgspec.msgpack.encode(content))])
        return _digest(body) + body

    def unpack_record(self, data: bytes) -> Record:
        """Return the record in ``data``."""
        digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != _digest(body) or body[:1] != _FORM:
            raise UndecodableError("the record is damaged, or of another form")
        try:
            (size,) = struct.unpack_from(">H", body, 1)
            run = body[3 : 3 + size].decode()
            at = 5 + size
            fields = []
            for _ in range(*struct.unpack_from(">H", body, at - 2)):
                has_value, size = struct.unpack_from(">BH", body, at)
                at += 3 + size
                fields.append(RecordField(body[at - size : at], bool(has_value)))
            parent, kind, content, metadata_kind, metadata = _CONTENT.decode(self._unpack(body[at:]))
        except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UndecodableError(str(error)) from error
        return Record(run, fields, parent, TypedBytes(kind, content), TypedBytes(metadata_kind, metadata))

    @staticmethod
    def digest_of(data: bytes) -> bytes:
        """Return the digest with which a record begins: records of the same digest are the same."""
        return data[:_DIGEST_BYTES]

    # Blobs

    @staticmethod
    def plain(value: TypedBytes) -> bytes:
        """Return the plain bytes of a blob."""
        letter = _LETTERS.get(value.kind)
        return (b"=" + value.kind.encode() + _NUL if letter is None else letter) + value.data

    def pack_blob(self, plain: bytes, base: tuple[bytes, Blob] | None) -> tuple[bytes, Blob]:
        """Return the stored bytes of a blob, in the shortest form, and the blob.

        Args:
            base: The encoded version and the blob of an earlier value of the channel, or None.
        """
        stored, depth = self._pack(plain), 0
        if base is not None and self._is_base(base[1], plain):
            version, before = base
            head = struct.pack("BB", before.depth + 1, len(version)) + version
            delta = b"d" + head + self._compression.frame(plain, prefix=before.plain)
            if len(delta) < len(stored):
                stored, depth = delta, before.depth + 1
        return stored, Blob(plain, depth)

    def _is_base(self, before: Blob, plain: bytes) -> bool:
        if not self._compression.is_available or min(len(before.plain), len(plain)) < _COMPRESSED_FROM:
            return False
        return before.depth < min(_MAX_DEPTH, max(4, _MAX_CHAIN_BYTES // len(plain)))

    def unpack_blob(self, field: bytes, stored: Mapping[bytes, bytes], done: dict[bytes, Blob]) -> Blob:
        """Return the blob of a field.

        Args:
            stored: The stored bytes of the blob, and of all blobs on which it depends, by field.
            done: The blobs that are known already, by field. Gets the blobs that this call decodes.
        """
        chain: list[bytes] = []
        while field not in done:
            chain.append(field)
            data = stored.get(field)
            if data is None:
                raise UndecodableError("a blob is gone on which others depend")
            if data[:1] != b"d":
                done[field] = Blob(self._unpack(data), 0)
                chain.pop()
                break
            if len(data) < 3 or len(chain) > _MAX_DEPTH:
                raise UndecodableError("a chain of blobs is damaged, or too long")
            field = _stem(field) + data[3 : 3 + data[2]]
        blob = done[field]
        for each in reversed(chain):
            data = stored[each]
            frame = data[3 + data[2] :]
            if len(blob.plain) < _SHORTEST_PREFIX:
                raise UndecodableError("the base of a blob is too short")
            blob = done[each] = Blob(self._compression.content(frame, prefix=blob.plain), blob.depth + 1)
        return blob

    # Pending writes

    def pack_write(self, write: PendingWrite) -> tuple[bytes, bytes]:
        """Return the field and the stored bytes of a pending write."""
        field = encode_part(write.task_id) + _NUL + str(write.number).encode()
        content = (write.channel, *write.value, write.task_path)
        return field, self._pack(msgspec.msgpack.encode(content))

    def unpack_write(self, field: bytes, data: bytes) -> PendingWrite:
        """Return the pending write in a field."""
        task, _, number = field.partition(_NUL)
        try:
            channel, kind, content, path = _WRITE.decode(self._unpack(data))
            return PendingWrite(decode_part(task), int(number), channel, TypedBytes(kind, content), path)
        except (ValueError, msgspec.MsgspecError) as error:
            raise UndecodableError(str(error)) from error

    def _pack(self, plain: bytes) -> bytes:
        raw = b"r" + struct.pack(">I", zlib.crc32(plain)) + plain
        if len(plain) < _COMPRESSED_FROM or not self._compression.is_available:
            return raw
        packed = b"z" + self._compression.frame(plain, prefix=TYPICAL)
        return packed if len(packed) < len(raw) else raw

    def _unpack(self, data: bytes) -> bytes:
        if data[:1] == b"z":
            return self._compression.content(data[1:], prefix=TYPICAL)
        plain = data[5:]
        if data[:1] != b"r" or data[1:5] != struct.pack(">I", zlib.crc32(plain)):
            raise UndecodableError("the bytes are damaged, or of another form")
        return plain


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _stem(field: bytes) -> bytes:
    """Return the field of a blob without its version."""
    kind, ns, channel, _ = field.split(_NUL, 3)
    return _NUL.join([kind, ns, channel, b""])
