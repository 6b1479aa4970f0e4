"""The state that the sessions of an app share, and that the sessions of a user share, for Google ADK.

Each value is an item of the item store, whose key is the key of the state without its prefix: writers of different keys
do not meet. The namespaces are ``app, {app}`` and ``user, {app}, {user}``. The items have no end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ...agent_cache import AgentCache
from ...tiers.items.key import StoreKeys
from ...tiers.items.store import Find, Operation, Put
from ...tiers.keys.canonical_json import compact_json
from ..extras import missing_extra
from .session_records import ITEM_STORE

try:
    from google.adk.sessions import State
except ImportError as error:
    raise missing_extra("google-adk", error) from error

__all__ = ["SharedState", "StateChanges"]

_APP: Final = "app"
_USER: Final = "user"


class StateChanges(NamedTuple):
    """The changes of a state, by their scope, without prefixes and without temporary keys."""

    app: dict[str, Any]
    user: dict[str, Any]
    session: dict[str, Any]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> StateChanges:
        """Return the changes in a state whose keys have prefixes. Raises UsageError for a key that is too long."""
        changes = cls({}, {}, {})
        for key, value in state.items():
            if key.startswith(State.APP_PREFIX):
                changes.app[key.removeprefix(State.APP_PREFIX)] = value
            elif key.startswith(State.USER_PREFIX):
                changes.user[key.removeprefix(State.USER_PREFIX)] = value
            elif not key.startswith(State.TEMP_PREFIX):
                changes.session[key] = value
        for key in (*changes.app, *changes.user):
            StoreKeys.field(key)
        return changes


class SharedState:
    """Reads and writes the state of apps and users. Errors as for ``SessionRecords``."""

    def __init__(self, cache: AgentCache) -> None:
        self._items = cache._parts.items(ITEM_STORE)

    async def put(self, app_name: str, user_id: str, changes: StateChanges) -> None:
        """Store the changes of the state of the app and of the user."""
        operations = _puts((_APP, app_name), changes.app) + _puts((_USER, app_name, user_id), changes.user)
        if operations:
            await self._items.run(operations)

    async def of_user(self, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, without prefixes."""
        (items,) = await self._items.run([Find((_USER, app_name, user_id))])
        return {item.key: json.loads(item.data) for item in _list(items)}

    async def seen_by(self, app_name: str, user_id: str | None) -> dict[str, dict[str, Any]]:
        """Return the state that the sessions of each user see, with prefixes: that of the app, and that of the user.

        Args:
            user_id: The user, or None for all users that have a state. Under an empty text stands the state of the
                app alone.
        """
        user_prefix = (_USER, app_name) if user_id is None else (_USER, app_name, user_id)
        of_app, of_users = await self._items.run([Find((_APP, app_name)), Find(user_prefix)])
        app_state = {f"{State.APP_PREFIX}{item.key}": json.loads(item.data) for item in _list(of_app)}
        seen = {"": app_state}
        for item in _list(of_users):
            state = seen.setdefault(item.namespace[-1], dict(app_state))
            state[f"{State.USER_PREFIX}{item.key}"] = json.loads(item.data)
        return seen


def _puts(namespace: tuple[str, ...], values: Mapping[str, Any]) -> list[Operation]:
    """Return the operations that store ``values``."""
    return [Put(namespace, key, compact_json(value, f"the state {key!r}")) for key, value in values.items()]


def _list(items: object) -> list[Any]:
    assert isinstance(items, list)
    return items
