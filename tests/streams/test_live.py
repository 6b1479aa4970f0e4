"""Live streams in Valkey: the entries that a holder writes, and what a reader believes."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import valkey

from tests.requests import turns
from tests.support import until
from tiercache import L2CommandError, L2UnavailableError, StreamLostError
from tiercache.engine.entries.rules import UndecodableError
from tiercache.log import CacheLog
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.streams.live import LiveReader, LiveWriter, Sharing, live_key
from tiercache.streams.recording import Recording

KEY: Final = "test:__tc:live:hash"
LEASE: Final = b"tc:lease:origin:1"


class TextForm:
    """Heads that are JSON texts."""

    def encode(self, head: Any) -> bytes:
        return json.dumps(head).encode()

    def decode(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise UndecodableError(str(error)) from error


def sharing_of(*, lease_ttl: float = 10.0, max_bytes: float = math.inf) -> Sharing:
    """Return how the recordings of these tests are shared."""
    return Sharing("test", TextForm(), lease_ttl, None, max_bytes)


class Stage:
    """A store, and writers and readers of one live stream on it."""

    def __init__(self, level2: ValkeyLevel2) -> None:
        self.level2 = level2
        self.log = CacheLog("test")
        self.seconds = 0.0

    def write(self, recording: Recording, placeholder: bytes = LEASE, **options: float) -> asyncio.Task[None]:
        """Share ``recording``."""
        writer = LiveWriter(self.level2, KEY, placeholder, sharing_of(**options), self.log)
        return asyncio.create_task(writer.run(recording))

    def reader(self, **options: float) -> LiveReader:
        """Return a reader, on the clock of the stage."""
        return LiveReader(self.level2, KEY, sharing_of(**options), lambda: self.seconds, self.log)


@pytest.fixture
async def stage(url: str) -> AsyncIterator[Stage]:
    level2 = ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=1.0)
    yield Stage(level2)
    await level2.aclose()


class Away:
    """A store that does not answer for some time."""

    def __init__(self, level2: ValkeyLevel2) -> None:
        self._level2 = level2
        self.is_away = False
        self.returns_after = math.inf

    async def execute(self, commands: Any) -> Any:
        if self.is_away:
            self.returns_after -= 1
            self.is_away = self.returns_after > 0
            raise L2UnavailableError("away")
        return await self._level2.execute(commands)


def entries(plain: valkey.Valkey) -> list[tuple[bytes, bytes]]:
    """Return the kind and the value of every entry, after checking its other fields."""
    found = []
    for number, (_, fields) in enumerate(plain.xrange(KEY)):
        assert list(fields)[:2] == [b"l", b"n"]
        assert fields[b"l"] == LEASE
        assert fields[b"n"] == b"%d" % number
        ((kind, value),) = list(fields.items())[2:]
        found.append((kind, value))
    return found


def newest(plain: valkey.Valkey) -> list[bytes]:
    """Return the values of the newest entry."""
    return [value for _, fields in plain.xrevrange(KEY, count=1) for value in fields.values()]


def add(plain: valkey.Valkey, number: int, kind: str, value: str | bytes, placeholder: bytes = LEASE) -> None:
    """Add an entry, as a holder does."""
    plain.xadd(KEY, {"l": placeholder, "n": number, kind: value})


async def read_all(reader: LiveReader) -> bytes:
    """Return all bytes up to the end."""
    data = b""
    while parts := await reader.parts():
        data += b"".join(parts)
    return data


def recording_of(*parts: bytes) -> Recording:
    """Return a recording that has ``parts``, and has not ended."""
    recording = Recording("head", max_bytes=math.inf)
    for part in parts:
        recording.append(part, len(part))
    return recording


# The holder


def test_live_key_ends_in_the_hash_of_the_request() -> None:
    assert live_key("test", "test:llm:hash") == KEY


async def test_live_stream_of_a_complete_recording_has_its_head_its_parts_and_marks_the_last(
    stage: Stage, plain: valkey.Valkey
) -> None:
    recording = recording_of(b"a", b"b")
    writing = stage.write(recording)
    await until(lambda: plain.xlen(KEY) == 2)
    recording.is_complete = True
    recording.append(b"c", 1)
    recording.end()
    await writing
    assert entries(plain) == [(b"h", b'"head"'), (b"p", b"ab"), (b"c", b"c")]
    assert 0 < plain.pttl(KEY) <= 20_000


@pytest.mark.parametrize("error", [None, ConnectionError(), TimeoutError()])
async def test_live_stream_of_any_other_recording_ends_with_its_outcome(
    stage: Stage, plain: valkey.Valkey, error: Exception | None
) -> None:
    recording = recording_of(b"a")
    recording.end(error)
    await stage.write(recording)
    assert entries(plain) == [(b"h", b'"head"'), (b"p", b"a"), (b"e", b"failed" if error else b"ok")]


async def test_live_stream_has_large_parts_in_several_entries(stage: Stage, plain: valkey.Valkey) -> None:
    data = bytes(range(256)) * 2560  # 640 KiB
    recording = recording_of(data)
    recording.is_complete = True
    recording.end()
    reader = stage.reader()
    await stage.write(recording)
    assert [kind for kind, _ in entries(plain)] == [b"h", b"p", b"p", b"c"]
    assert max(len(value) for _, value in entries(plain)) == 256 * 1024
    assert await reader.has_begun(LEASE)
    assert await read_all(reader) == data


async def test_live_stream_keeps_the_newest_bytes_of_a_recording_beyond_its_bound(
    stage: Stage, plain: valkey.Valkey
) -> None:
    recording = recording_of()
    writing = stage.write(recording, max_bytes=100)
    for number in range(50):
        recording.append(b"%030d" % number, 30)
        await until(lambda number=number: b"%030d" % number in newest(plain))
        assert plain.xlen(KEY) <= 6
    recording.end()
    await writing
    assert plain.xlen(KEY) <= 6


async def test_live_stream_sends_entries_while_the_provider_is_silent(stage: Stage, plain: valkey.Valkey) -> None:
    recording = recording_of(b"a")
    writing = stage.write(recording, lease_ttl=0.3)
    await until(lambda: plain.xlen(KEY) >= 5)
    recording.end()
    await writing
    assert entries(plain)[2:-1] == [(b"p", b"")] * (plain.xlen(KEY) - 3)


async def test_live_stream_drops_entries_that_are_older_than_twice_the_lease(
    stage: Stage, plain: valkey.Valkey
) -> None:
    now = int(plain.time()[0]) * 1000
    plain.xadd(KEY, {"old": "entry"}, id=f"{now - 30_000}-0")
    plain.xadd(KEY, {"new": "entry"}, id=f"{now - 5_000}-0")
    recording = recording_of()
    recording.end()
    await stage.write(recording)
    assert [next(iter(fields)) for _, fields in plain.xrange(KEY)] == [b"new", b"l", b"l"]


async def test_live_stream_that_valkey_refuses_frees_the_recording_and_logs_once(
    stage: Stage, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.set(KEY, "a text")
    for _ in range(2):
        recording = Recording("head", max_bytes=1)
        writing = stage.write(recording)
        await writing
        # No follower is left for which the writer would wait.
        recording.append(bytes(1 << 20), 1 << 20)
        await recording.wait_for_room()
        recording.end()
    assert [record.getMessage() for record in caplog.records if "not shared" in record.getMessage()]
    assert len(caplog.records) == 1


async def test_live_stream_that_valkey_did_not_take_for_a_moment_ends_at_once_for_its_readers(
    stage: Stage, plain: valkey.Valkey
) -> None:
    away = Away(stage.level2)
    level2: Any = away
    recording = recording_of()
    writer = LiveWriter(level2, KEY, LEASE, sharing_of(), stage.log)
    writing = asyncio.create_task(writer.run(recording))
    await until(lambda: plain.xlen(KEY) == 1)
    away.is_away, away.returns_after = True, 1
    recording.append(b"a", 1)
    await writing
    assert entries(plain) == [(b"h", b'"head"'), (b"e", b"failed")]


async def test_live_stream_whose_writer_is_cancelled_frees_the_recording(stage: Stage, plain: valkey.Valkey) -> None:
    recording = Recording("head", max_bytes=1)
    writing = stage.write(recording)
    await until(lambda: plain.xlen(KEY) == 1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    recording.append(bytes(1 << 20), 1 << 20)
    await recording.wait_for_room()
    assert recording.kept_bytes == 0


# The reader


async def test_live_reader_gets_all_parts_before_it_learns_that_the_recording_failed(
    stage: Stage, plain: valkey.Valkey
) -> None:
    add(plain, 0, "h", '"head"')
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    assert reader.head == "head"
    for number in range(1, 200):  # More than one read.
        add(plain, number, "p", b"x")
    add(plain, 200, "e", "failed")
    assert b"".join(await reader.parts()) == b"x" * 199
    for _ in range(2):
        with pytest.raises(StreamLostError, match="could not finish"):
            await reader.parts()


async def test_live_reader_of_a_stream_that_has_failed_already_does_not_begin(
    stage: Stage, plain: valkey.Valkey
) -> None:
    """Its load waits for the whole value, or loads."""
    add(plain, 0, "h", '"head"')
    add(plain, 1, "p", "x")
    add(plain, 2, "e", "failed")
    reader = stage.reader()
    for _ in range(2):
        assert not await reader.has_begun(LEASE)
        assert not reader.is_begun


@pytest.mark.parametrize(
    "gap",
    [("p", 3), ("c", 3), ("e", 0), ("h", 0), ("p", 1), ("unknown", 2)],
)
async def test_live_reader_gets_no_parts_after_a_gap(stage: Stage, plain: valkey.Valkey, gap: tuple[str, int]) -> None:
    add(plain, 0, "h", '"head"')
    add(plain, 1, "p", "a")
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    add(plain, gap[1], gap[0], "b")
    add(plain, 2, "p", "c")
    assert await reader.parts() == [b"a"]
    with pytest.raises(StreamLostError):
        await reader.parts()


async def test_live_reader_ignores_a_stream_whose_beginning_is_gone(stage: Stage, plain: valkey.Valkey) -> None:
    add(plain, 1, "p", "a")
    add(plain, 2, "p", "b")
    reader = stage.reader()
    assert not await reader.has_begun(LEASE)
    assert not reader.is_begun


async def test_live_reader_ignores_entries_of_other_recordings(stage: Stage, plain: valkey.Valkey) -> None:
    other = b"tc:lease:another:1"
    add(plain, 0, "h", '"other"', other)
    add(plain, 0, "h", '"head"')
    add(plain, 1, "p", "wrong", other)
    add(plain, 1, "p", "right")
    add(plain, 2, "e", "failed", other)
    add(plain, 2, "e", "ok")
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    assert reader.head == "head"
    assert await read_all(reader) == b"right"


async def test_live_reader_gives_up_after_a_silence_as_long_as_the_lease_whatever_others_write(
    stage: Stage, plain: valkey.Valkey
) -> None:
    add(plain, 0, "h", '"head"')
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    waiting = asyncio.create_task(reader.parts())
    stage.seconds = 9.9
    await asyncio.sleep(0.1)
    add(plain, 1, "p", "")  # The holder lives.
    await asyncio.sleep(0.1)
    stage.seconds = 19.0
    await asyncio.sleep(0.1)
    assert not waiting.done()
    add(plain, 1, "p", "x", b"tc:lease:another:1")
    stage.seconds = 30.5
    with pytest.raises(StreamLostError, match="silent"):
        await waiting


async def test_live_reader_waits_for_valkey_that_is_away_until_the_lease_ends(
    stage: Stage, plain: valkey.Valkey
) -> None:
    away = Away(stage.level2)
    away.is_away = True
    add(plain, 0, "h", '"head"')
    add(plain, 1, "p", "x")
    level2: Any = away
    reader = LiveReader(level2, KEY, sharing_of(), lambda: stage.seconds, stage.log)
    assert not await reader.has_begun(LEASE)
    away.is_away = False
    assert await reader.has_begun(LEASE)
    assert await reader.parts() == [b"x"]
    away.is_away = True
    waiting = asyncio.create_task(reader.parts())
    await asyncio.sleep(0.1)
    away.is_away = False
    add(plain, 2, "c", "y")
    assert await waiting == [b"y"]
    assert await reader.parts() == []


async def test_live_reader_that_valkey_refuses_asks_no_more_and_logs_once(
    stage: Stage, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.set(KEY, "a text")
    reader = stage.reader()
    assert not await reader.has_begun(LEASE)
    plain.delete(KEY)
    add(plain, 0, "h", '"head"')
    assert not await reader.has_begun(LEASE)
    assert len(caplog.records) == 1


async def test_live_reader_that_valkey_refuses_later_ends_with_an_error(stage: Stage, plain: valkey.Valkey) -> None:
    add(plain, 0, "h", '"head"')
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    plain.delete(KEY)
    plain.set(KEY, "a text")
    with pytest.raises(StreamLostError, match="cannot be read"):
        await reader.parts()


async def test_live_reader_that_is_cancelled_reads_on_where_it_was(stage: Stage, plain: valkey.Valkey) -> None:
    add(plain, 0, "h", '"head"')
    reader = stage.reader()
    assert await reader.has_begun(LEASE)
    data = b""
    for number in range(1, 30):
        waiting = asyncio.create_task(reader.parts())
        await turns(number % 7)
        add(plain, number, "p", b"%d," % number)
        await asyncio.sleep(number % 3 * 0.01)
        waiting.cancel()
        if waiting.done() and not waiting.cancelled():
            data += b"".join(waiting.result())
        else:
            with pytest.raises(asyncio.CancelledError):
                await waiting
    add(plain, 30, "e", "ok")
    data += await read_all(reader)
    assert data == b"".join(b"%d," % number for number in range(1, 30))


def test_command_errors_of_live_streams_are_those_of_the_store() -> None:
    assert not issubclass(L2CommandError, L2UnavailableError)
    assert not issubclass(StreamLostError, L2UnavailableError)


def test_live_streams_of_two_keys_have_keys_of_their_own() -> None:
    keys = ["test:llm:abc", "test:__tc:kv:memo:f:1:abc", "test:__tc:kv:memo:g:1:abc", "test:tool:f:abc"]
    assert live_key("test", keys[0]) == "test:__tc:live:abc"
    assert len({live_key("test", key) for key in keys}) == len(keys)
