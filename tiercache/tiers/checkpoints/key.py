"""The checkpoint keys: the keys of a thread in Valkey, the fields of its hash, and the members of its index.

    {name}:__tc:cp:{<thread>}               zset: a member for each checkpoint, all with score 0
    {name}:__tc:cp:{<thread>}:d             hash: the content of the checkpoints
    {name}:__tc:cp:{<thread>}:w:<member>    hash: the pending writes of one checkpoint, by <task> NUL <number>
    {name}:__tc:cps                         zset: the threads, scored by the millisecond at which they end (or inf)
    {name}:__tc:cpr:<run>                   zset: the threads that a run has written, scored in the same way

A member is ``<ns> NUL <id>``. If it stands for the writes of a checkpoint that is not stored, the byte 255 precedes it.
The fields of the content:

    c NUL <member>                          a record
    b NUL <ns> NUL <channel> NUL <version>  a blob, the value of a channel
    r                                       the runs that have written the thread, each followed by NUL
    t                                       the millisecond until which the keys of pending writes live

``%`` and ``:`` of a thread and a run are percent-encoded, ``{`` and ``}`` too: the braces around the thread are a hash
tag, so that all keys of a thread lie in one slot. ``%`` and NUL of a namespace, a channel and a task are encoded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ...engine.entries.entry import Group
from ...errors import UsageError
from ...text import LONGEST_NAME_BYTES, check_name, check_size, check_text, encode_id
from .checkpoint import Place, Version

__all__ = [
    "CheckpointKeys",
    "ThreadKeys",
    "check_namespace",
    "check_place",
    "decode_part",
    "encode_part",
    "field_of",
    "member_of",
    "place_of",
]

_NUL: Final = b"\0"
# One byte in a blob has the length of a version.
_LONGEST_VERSION_BYTES: Final = 255
# A namespace names every subgraph on the way to it, and a channel may have the name of a node: 16 KiB for each.
_MORE_BYTES: Final = LONGEST_NAME_BYTES - 16 * 1024


class ThreadKeys(NamedTuple):
    """The keys of a thread.

    Attributes:
        id: The thread id as the caller gave it.
        index_key: The key of the index.
        content_key: The key of the hash with the records and the blobs.
        writes_prefix: The prefix of the keys of pending writes.
    """

    id: str
    index_key: str
    content_key: str
    writes_prefix: str

    @property
    def group(self) -> Group:
        """The group of the thread in L1. The fields of its session belong to the same group."""
        return Group("thread", self.id)


class CheckpointKeys:
    """Makes the keys of threads and runs, and refuses wrong ids.

    Attributes:
        threads: The key of the list of threads.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}:__tc:cp:"
        self._runs_prefix = f"{name}:__tc:cpr:"
        self.threads = f"{name}:__tc:cps"

    def thread(self, thread_id: object) -> ThreadKeys:
        """Return the keys of a thread.

        Raises:
            UsageError: ``thread_id`` is no text, is empty, or is too long (``check_name``).
        """
        thread_id = check_name(thread_id, "thread_id")
        index = f"{self._prefix}{{{_encode_tag(thread_id)}}}"
        return ThreadKeys(thread_id, index, f"{index}:d", f"{index}:w:")

    def run(self, run_id: object) -> str:
        """Return the key of the threads of a run. Errors as for ``thread``."""
        return self._runs_prefix + _encode_tag(check_name(run_id, "run_id"))


def check_namespace(ns: object) -> str:
    """Return a namespace.

    Raises:
        UsageError: The namespace is no text, or too long. It may be empty.
    """
    text = check_text(ns, "checkpoint_ns")
    check_size(text, "checkpoint_ns", prefix_bytes=_MORE_BYTES)
    return text


def check_place(ns: object, checkpoint_id: object) -> Place:
    """Return the place of a checkpoint.

    Raises:
        UsageError: As for ``check_namespace``; or the id is no text, empty or too long.
    """
    return Place(check_namespace(ns), check_name(checkpoint_id, "checkpoint_id"))


def member_of(place: Place) -> bytes:
    """Return the member of the index that stands for a checkpoint."""
    return encode_part(place.ns) + _NUL + place.id.encode()


def place_of(member: bytes) -> Place:
    """Return the place for which a member of the index stands."""
    ns, _, checkpoint_id = member.partition(_NUL)
    return Place(decode_part(ns), checkpoint_id.decode())


def encode_part(text: str) -> bytes:
    """Return a namespace, a channel or a task for a field: encoded, so that it contains no NUL."""
    return text.replace("%", "%25").replace("\0", "%00").encode()


def decode_part(data: bytes) -> str:
    """Return the text that ``encode_part`` has encoded."""
    return data.decode().replace("%00", "\0").replace("%25", "%")


def field_of(channel: str, version: Version) -> bytes:
    """Return the end of the field of a blob: the channel and the version.

    Raises:
        UsageError: The channel is no Unicode text or too long, or the version is too long.
    """
    check_size(check_text(channel, "channel"), "channel", prefix_bytes=_MORE_BYTES)
    encoded = _encode_version(version)
    if len(encoded) > _LONGEST_VERSION_BYTES:
        raise UsageError(f"the version of channel {channel!r} must be at most {_LONGEST_VERSION_BYTES - 1} bytes long")
    return encode_part(channel) + _NUL + encoded


def _encode_version(version: Version) -> bytes:
    if isinstance(version, int) and 0 <= version < 1 << 64:
        return b"i" + version.to_bytes((version.bit_length() + 7) // 8, "big")
    return b"s" + check_text(str(version), "version").encode()


def _encode_tag(text: str) -> str:
    return encode_id(text).replace("{", "%7B").replace("}", "%7D")
