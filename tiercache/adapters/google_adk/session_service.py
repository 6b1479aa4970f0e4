"""The session service of Google ADK, with sessions, events and state in Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...ttl import Ttl, check_ttl
from ..caches import check_cache, log_of
from ..extras import missing_extra
from .session_records import FoundHead, Head, SessionKey, SessionRecords
from .shared_state import SharedState, StateChanges

try:
    from google.adk.errors import StaleSessionError
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events import Event
    from google.adk.sessions import BaseSessionService, Session, State
    from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse
    from pydantic_core import PydanticSerializationError, to_jsonable_python
except ImportError as error:
    raise missing_extra("google-adk", error) from error

__all__ = ["TierCacheSessionService"]


class TierCacheSessionService(BaseSessionService):
    """The session service of Google ADK on a cache: sessions, events, and the state of sessions, users and apps.

    A read sees every write that has returned, in any process. Two processes that add an event to one session at the
    same time lose none: as with ADK's services on databases, the second one gets ``StaleSessionError``, reads the
    session again, and adds its event then. An ``append_event`` that is repeated after an error of Valkey adds its event
    once. Call the methods on the event loop of the cache: the method ``run`` of ADK's runner has a loop of its own.

    Args:
        cache: The cache.
        ttl: The window of a session: each event, and each ``get_session``, restarts it. None takes that of the session
            tier, then the cache's. The state of users and of apps has no end.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have been made.
        L2CommandError: Valkey refused.
        UsageError: An argument is wrong, the cache is closed, or other software has written to a session.
    """

    def __init__(self, cache: AgentCache, *, ttl: Ttl | None = None) -> None:
        check_cache(cache)
        if ttl is not None:
            check_ttl(ttl)
        self._log = log_of(cache)
        self._records = SessionRecords(cache, ttl)
        self._shared = SharedState(cache)
        # Branches of one run share a session object: their events are added one after another.
        self._locks: WeakValueDictionary[SessionKey, asyncio.Lock] = WeakValueDictionary()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session with a state, whose keys may begin with ``app:``, ``user:`` and ``temp:``.

        Raises:
            AlreadyExistsError: There is a session of this id.
            UsageError: A value of the state cannot be written as JSON.
        """
        key = SessionKey(app_name, user_id, (session_id or "").strip() or str(uuid4()))
        changes = StateChanges.of(_json_of(state or {}))
        head = await self._records.create(key, changes.session, time.time())
        if head is None:
            raise AlreadyExistsError(f"Session with id {key.session_id} already exists.")
        await self._shared.put(app_name, user_id, changes)
        await self._records.publish(key)
        return _session(key, head, await self._seen(key), [])

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, or None if there is no such session."""
        key = _key(app_name, user_id, session_id)
        found, seen = await asyncio.gather(self._records.head(key), self._seen(key))
        events: list[bytes] | None = None
        while found is not None and events is None:
            events = await self._records.events(key, found.head)
            if events is None:
                first = found.head.first
                found = await self._records.head(key)
                if found is not None and found.head.first == first:
                    self._log.warn_once("a session of Google ADK has lost its events: it counts as absent")
                    return None
        if found is None or events is None:
            return None
        await self._records.renew(key)
        return _session(key, found.head, seen, _selected(events, config))

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of an app, or of one of its users, without events, the one that was used last at the end.

        The cost grows with the number of these sessions, and not with the number of all keys.
        """
        found, seen = await asyncio.gather(
            self._records.all_of(app_name, user_id), self._shared.seen_by(app_name, user_id)
        )
        sessions = [_session(key, head, seen.get(key.user_id, seen[""]), []) for key, head in found]
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events. The state of the user and of the app stays."""
        await self._records.delete(_key(app_name, user_id, session_id))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, without the prefix ``user:``."""
        return await self._shared.of_user(app_name, user_id)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Add an event to a session, and its changes of the state to the session, the user and the app.

        An event that the session has already is not added again. A partial event is not added.

        Raises:
            StaleSessionError: Another writer has added an event since ``session`` was read.
            SessionNotFoundError: There is no such session.
            UsageError: The event cannot be written as JSON. Nothing is stored.
        """
        if event.partial or any(each.id == event.id and each == event for each in session.events):
            return event
        key = SessionKey(session.app_name, session.user_id, session.id)
        changes = StateChanges.of(_json_of(event.actions.state_delta))
        data = _event_data(event)
        async with self._locks.setdefault(key, asyncio.Lock()):
            head = await self._stored(key, session, data, changes)
            await self._shared.put(session.app_name, session.user_id, changes)
            await self._records.publish(key)
            _mark(session, head)
            return await super().append_event(session=session, event=event)

    async def _stored(self, key: SessionKey, session: Session, data: dict[str, Any], changes: StateChanges) -> Head:
        """Store an event, unless an earlier call has stored it; return the head that has it."""
        found = await self._records.head(key)
        if found is None:
            raise SessionNotFoundError(f"Session {key.session_id} not found.")
        if _is_repeated(found.head, session, data):
            return found.head
        if _is_stale(found, session):
            raise _stale(key)
        head = await self._records.append(key, found, data, changes.session)
        if head is None:
            raise _stale(key)
        return head

    async def _seen(self, key: SessionKey) -> dict[str, Any]:
        seen = await self._shared.seen_by(key.app_name, key.user_id)
        return seen.get(key.user_id, seen[""])


# Sessions


def _key(app_name: str, user_id: str, session_id: str) -> SessionKey:
    return SessionKey(app_name, user_id, session_id.strip() if session_id else session_id)


def _session(key: SessionKey, head: Head, seen: Mapping[str, Any], events: list[Event]) -> Session:
    session = Session(
        id=key.session_id,
        app_name=key.app_name,
        user_id=key.user_id,
        state={**head.state, **seen},
        events=events,
    )
    _mark(session, head)
    return session


def _mark(session: Session, head: Head) -> None:
    """Let a session object know the head from which it was read, as ADK's services on databases do."""
    session.last_update_time = head.updated
    session._storage_update_marker = head.last


def _is_stale(found: FoundHead, session: Session) -> bool:
    """Return whether a session object lacks an event of the stored session."""
    head, marker = found.head, session._storage_update_marker
    if marker is not None:
        return bool(marker != head.last)
    # A program has made the object itself.
    last_id = session.events[-1].id if session.events else ""
    return bool(head.updated > session.last_update_time and last_id != head.event_id)


def _is_repeated(head: Head, session: Session, data: Mapping[str, Any]) -> bool:
    """Return whether the last stored event is the one of this call: Valkey's answer to an earlier call was lost."""
    return bool(head.event_id == data["id"] and session._storage_update_marker == head.previous)


def _stale(key: SessionKey) -> StaleSessionError:
    return StaleSessionError(
        f"session {key.session_id} has changed since it was read: read it again with get_session, then add the event"
    )


# Events and state


def _event_data(event: Event) -> dict[str, Any]:
    """Return the JSON of an event without the temporary state, whose values may be of any kind.

    Raises:
        UsageError: The event has an object that JSON does not have.
    """
    kept = {key: value for key, value in event.actions.state_delta.items() if not key.startswith(State.TEMP_PREFIX)}
    actions = event.actions.model_copy(update={"state_delta": kept})
    try:
        data: dict[str, Any] = event.model_copy(update={"actions": actions}).model_dump(mode="json", exclude_none=True)
    except PydanticSerializationError as error:
        raise UsageError(f"event cannot be written as JSON: {error}") from error
    return data


def _json_of(state: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in state.items() if not key.startswith(State.TEMP_PREFIX)}
    try:
        data: dict[str, Any] = to_jsonable_python(kept)
    except PydanticSerializationError as error:
        raise UsageError(f"state cannot be written as JSON: {error}") from error
    return data


def _selected(stored: list[bytes], config: GetSessionConfig | None) -> list[Event]:
    """Return the events that ``config`` asks for."""
    count = None if config is None else config.num_recent_events
    after = None if config is None else config.after_timestamp
    newest_first = stored[::-1] if count is None else stored[::-1][:count]
    events: list[Event] = []
    for data in newest_first:
        event = Event.model_validate_json(data)
        if after is not None and event.timestamp < after:
            break
        events.append(event)
    return events[::-1]
