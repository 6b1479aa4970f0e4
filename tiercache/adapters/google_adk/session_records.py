"""The sessions of Google ADK in Valkey: one thread of the session tier for each session, and a list of all sessions.

The thread ``google_adk/{app}/{user}/{session}`` (each part percent-encoded) has two fields:

    head             the state of the session, and the token of its last event
    events.{first}   a JSON list: each item has its token, the token of the event before it, and the event

An event is added in two steps. First its item is appended to the list, then the head is compared and set. An event
belongs to the session only if the chain of tokens reaches it from the head. So an append that another writer overtakes
between the steps leaves an item that no reader returns, and the head never names an event that is missing.

The head is copied to an item of the item store, in the namespace ``sessions, {app}, {user}``, from which sessions are
listed. ``publish`` brings the copy up to date after each change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import msgspec
from msgspec import Struct

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...tiers.items.store import Find, Get, Item, Put
from ...tiers.keys.canonical_json import compact_json
from ...ttl import Ttl

__all__ = ["ITEM_STORE", "FoundHead", "Head", "SessionKey", "SessionRecords"]

ITEM_STORE: Final = "google_adk"
_NAMESPACE: Final = "sessions"
_HEAD: Final = "head"


class SessionKey(NamedTuple):
    """The names of a session."""

    app_name: str
    user_id: str
    session_id: str

    @property
    def thread_id(self) -> str:
        """The id of the thread in the session tier."""
        return "/".join([ITEM_STORE, *(quote(part, safe="") for part in self)])

    @property
    def namespace(self) -> tuple[str, ...]:
        """The namespace of the session's item in the list of sessions."""
        return (_NAMESPACE, self.app_name, self.user_id)


class Head(Struct, frozen=True):
    """The head of a session.

    Attributes:
        first: The token of the creation.
        last: The token of the last event, or ``first`` if there is no event.
        previous: The token before ``last``, or an empty text.
        event_id: ADK's id of the last event, or an empty text.
        count: The number of events.
        updated: Seconds since the epoch.
        state: The state of the session alone, without that of its user and its app.
    """

    first: str
    last: str
    previous: str
    event_id: str
    count: int
    updated: float
    state: dict[str, Any]

    def data(self) -> bytes:
        """Return the JSON. Raises UsageError if the state is not JSON."""
        return compact_json(msgspec.structs.asdict(self), "state")


class FoundHead(NamedTuple):
    """A head with the text of its field."""

    head: Head
    text: str


class _Event(Struct, frozen=True):
    """An item of the list of events."""

    id: str
    after: str
    event: msgspec.Raw


_EVENTS: Final = msgspec.json.Decoder(list[_Event])


class SessionRecords:
    """Reads and writes the records of sessions.

    Every async method raises L2UnavailableError if Valkey did not answer, L2CommandError if it refused, and UsageError
    if a name is wrong, a record is not one of this class, or the cache is closed.
    """

    def __init__(self, cache: AgentCache, ttl: Ttl | None) -> None:
        self._session = cache.session
        self._items = cache._parts.items(ITEM_STORE)
        self._ttl = ttl

    async def head(self, key: SessionKey) -> FoundHead | None:
        """Return the head of a session from Valkey, or None if there is no session."""
        text = await self._session.get(key.thread_id, _HEAD, fresh=True)
        if text is None:
            return None
        head = _head(text)
        if head is None:
            raise UsageError(f"thread {key.thread_id!r} has no session of Google ADK")
        return FoundHead(head, text)

    async def events(self, key: SessionKey, head: Head) -> list[bytes] | None:
        """Return the JSON of each event that ``head`` reaches, the oldest first; None if an event is not there."""
        if head.count == 0:
            return []
        text = await self._session.get(key.thread_id, _events_field(head), fresh=True)
        items = {item.id: item for item in _EVENTS.decode(text)} if text else {}
        found: list[bytes] = []
        token = head.last
        while token != head.first:
            item = items.pop(token, None)
            if item is None:
                return None
            found.append(bytes(item.event))
            token = item.after
        return found[::-1]

    async def create(self, key: SessionKey, state: dict[str, Any], updated: float) -> Head | None:
        """Create a session; return its head, or None if there is one of this key."""
        token = uuid4().hex
        head = Head(token, token, "", "", 0, updated, state)
        is_new = await self._session.compare_and_set(key.thread_id, _HEAD, None, head.data().decode(), ttl=self._ttl)
        return head if is_new else None

    async def append(
        self, key: SessionKey, found: FoundHead, event: dict[str, Any], state: dict[str, Any]
    ) -> Head | None:
        """Add an event after ``found``; return the new head, or None if another writer has changed the session.

        Args:
            event: The event in ADK's JSON.
            state: The changes of the state of the session.
        """
        old = found.head
        token = uuid4().hex
        head = Head(old.first, token, old.last, event["id"], old.count + 1, event["timestamp"], {**old.state, **state})
        text = head.data().decode()
        item = {"id": token, "after": old.last, "event": event}
        await self._session.append(key.thread_id, _events_field(old), item, ttl=self._ttl)
        if await self._session.compare_and_set(key.thread_id, _HEAD, found.text, text, ttl=self._ttl):
            return head
        current = await self.head(key)
        if current is None or current.head.first != old.first:
            # The session was deleted after its events were: no session has this list any more.
            await self._session.delete(key.thread_id, _events_field(old))
        return None

    async def delete(self, key: SessionKey) -> None:
        """Delete a session with its events."""
        found = await self.head(key)
        if found is not None:
            await self._session.delete(key.thread_id, _HEAD)
            await self._session.delete(key.thread_id, _events_field(found.head))
        await self.publish(key)

    async def publish(self, key: SessionKey) -> None:
        """Copy the head of a session to the list of sessions, or remove the copy if there is no session.

        Another writer may put an older copy later. So each writer looks at the head after its copy: the last one finds
        the head that it has copied.
        """
        found = await self.head(key)
        while True:
            data = None if found is None else found.text.encode()
            await self._items.run([Put(key.namespace, key.session_id, data, self._window())])
            copied, found = found, await self.head(key)
            if found == copied:
                return

    async def renew(self, key: SessionKey) -> None:
        """Restart the window of the copy of a session that was read."""
        if self._window() is not None:
            await self._items.run([Get(key.namespace, key.session_id, renew=True)])

    async def all_of(self, app_name: str, user_id: str | None) -> list[tuple[SessionKey, Head]]:
        """Return the sessions of an app, or of one of its users, in no order."""
        prefix = (_NAMESPACE, app_name) if user_id is None else (_NAMESPACE, app_name, user_id)
        (items,) = await self._items.run([Find(prefix)])
        assert isinstance(items, list)
        return list(_listed(items))

    def _window(self) -> float | None:
        seconds = self._session._window(self._ttl)
        return None if seconds == math.inf else seconds


def _listed(items: Sequence[Item]) -> Sequence[tuple[SessionKey, Head]]:
    found: list[tuple[SessionKey, Head]] = []
    for item in items:
        head = _head(item.data)
        if head is not None and len(item.namespace) == len(SessionKey._fields):
            found.append((SessionKey(item.namespace[1], item.namespace[2], item.key), head))
    return found


def _events_field(head: Head) -> str:
    """Return the field of the events. A session that is created again under the same id has another field."""
    return f"events.{head.first}"


def _head(text: str | bytes) -> Head | None:
    """Return the head in a text, or None if other software has written the text."""
    try:
        return msgspec.convert(json.loads(text), Head)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None
