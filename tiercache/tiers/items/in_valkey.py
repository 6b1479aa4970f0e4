"""Items in Valkey: an item is read by ``HGET``, all else is one script; the commands of a call go in one exchange.

No item is kept in L1: a read always sees the latest change of every process. A window is restarted by a script that no
caller waits for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, Final

from msgspec import UNSET

from ...engine.engine import Engine
from ...engine.level2.queued_write import ignore_outcome
from ...engine.level2.writes import Command
from ...engine.operations.state import StateCommands
from ...identity import KeepsIdentity
from ...ttl import to_milliseconds
from .key import Namespace, StoreKeys
from .scripts import items_script
from .store import Append, Find, Get, Item, ItemStore, Namespaces, Operation, Put, stored_bytes

__all__ = ["ValkeyItems"]

_ALL: Final = -1
# At most 17 digits: microseconds until the year 5138.
_VALUE: Final = re.compile(rb"\d+ (\d{1,17}) (\d{1,17}) (\d{1,17}) (.*)", re.DOTALL)


class ValkeyItems(KeepsIdentity, ItemStore):
    """The item store in Valkey."""

    def __init__(self, engine: Engine, keys: StoreKeys) -> None:
        self._engine = engine
        self._state = StateCommands(engine)
        self._keys = keys

    async def run(self, operations: Sequence[Operation]) -> list[object]:
        commands = [self._command(i, operation) for i, operation in enumerate(operations)]
        if any(isinstance(operation, Get) for operation in operations):
            commands.append(("TIME",))
        has_writes = any(isinstance(operation, Put | Append) for operation in operations)
        with self._engine.operation("items.run", bytes=stored_bytes(operations)):
            replies = await (self._state.run_all if has_writes else self._state.ask_all)(commands)
        # The time of the server, with which the items that have ended are left out.
        now = int(replies[-1][0]) * 1000 + int(replies[-1][1]) // 1000 if len(replies) > len(operations) else 0
        results = [self._result(operation, reply, now) for operation, reply in zip(operations, replies, strict=False)]
        self.renew(
            [
                item
                for operation, item in zip(operations, results, strict=True)
                if isinstance(operation, Get) and operation.renew and isinstance(item, Item)
            ]
        )
        return results

    def renew(self, items: Sequence[Item]) -> None:
        fields: defaultdict[Namespace, list[str]] = defaultdict(list)
        for item in items:
            if item.window is not None:
                fields[item.namespace].append(self._keys.field(item.key))
        for namespace, names in fields.items():
            self._state.renew(self._script("renew", namespace, *names), ignore_outcome)

    # Commands

    def _command(self, number: int, operation: Operation) -> Command:
        """Return the command of an operation, the ``number``-th of its batch."""
        keys = self._keys
        if isinstance(operation, Get):
            return ("HGET", keys.prefix + keys.text(operation.namespace), keys.field(operation.key))
        if isinstance(operation, Put | Append):
            window = 0 if operation.window is None else to_milliseconds(operation.window)
            data = () if operation.data is None else (operation.data,)
            condition = _condition(operation)
            field = keys.field(operation.key)
            return self._script("put", operation.namespace, field, number, window, condition, *data)
        lex = keys.range_of(operation.prefix)
        if isinstance(operation, Namespaces):
            return ("EVAL", items_script("namespaces"), 2, keys.index, keys.ends, *lex)
        count = _ALL if operation.count is None else operation.count
        return ("EVAL", items_script("find"), 1, keys.index, *lex, keys.prefix, operation.skip, count)

    def _script(self, name: str, namespace: Namespace, *args: str | int | bytes) -> Command:
        keys = self._keys
        text = keys.text(namespace)
        return ("EVAL", items_script(name), 3, keys.index, keys.ends, keys.prefix + text, text, *args)

    # Replies

    def _result(self, operation: Operation, reply: Any, now: int) -> object:
        if isinstance(operation, Get):
            return None if reply is None else _item(operation.namespace, operation.key, reply, now)
        if isinstance(operation, Find):
            return list(self._found(reply))
        if isinstance(operation, Namespaces):
            names, ended = reply
            over = set(ended)
            namespaces = (self._keys.namespace(name) for name in names if name not in over)
            return [namespace for namespace in namespaces if namespace is not None]
        return bool(reply)

    def _found(self, reply: Sequence[bytes]) -> Iterator[Item]:
        for name, field, value in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
            namespace = self._keys.namespace(name)
            try:
                key = field.decode()[1:]
            except UnicodeDecodeError:
                continue  # Other software wrote the field.
            item = None if namespace is None else _item(namespace, key, value)
            if item is not None:
                yield item


def _condition(operation: Put | Append) -> str:
    """Return the condition as ``items_put.lua`` takes it."""
    if isinstance(operation, Append):
        return "+"
    if operation.expected is UNSET:
        return ""
    # The hash takes the place of a long text on the wire.
    return "-" if operation.expected is None else sha1(operation.expected, usedforsecurity=False).hexdigest()


def _item(namespace: Namespace, key: str, value: bytes, now: int = 0) -> Item | None:
    """Return the item of a value ``{order} {end} {window} {stored} {JSON}``, or None for one that has ended.

    Other software may have written any bytes: None, too.

    Args:
        now: The server's time in milliseconds.
    """
    found = _VALUE.fullmatch(value)
    if found is None:
        return None
    last, window, stored = (int(found[i]) for i in (1, 2, 3))
    if 0 < last <= now:
        return None
    return Item(namespace, key, found[4], stored / 1e6, window / 1000 if window else None)
