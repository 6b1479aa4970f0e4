"""Shared fields: hashes in Valkey with one rule for each field, which every process reads and other software may write.

A field whose value cannot be read is ignored, and counted once for each of its values.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ..engine.level2.level2 import Level2
from ..engine.level2.replies import send
from ..errors import TierCacheError
from ..locks import ThreadLock
from ..log import CacheLog
from ..text import LONGEST_NAME_BYTES, shown

__all__ = ["MOST_BYTES", "SharedFields"]

T = TypeVar("T")

# Bytes of a value that is read.
MOST_BYTES: Final = 4096
# A field may have the kind of its name before the name.
_LONGEST_FIELD_BYTES: Final = LONGEST_NAME_BYTES + len("tool:")


class SharedFields(Generic[T]):
    """One hash, as this process knows it.

    Args:
        key: The key of the hash.

    Attributes:
        kind: The name of the hash in log lines.
        key: See the arguments.
        refresh_failed_count: Refreshes that Valkey did not answer.
        malformed_count: Ignored fields; each is counted once for each of its values.
    """

    kind: str

    def __init__(self, key: str, log: CacheLog) -> None:
        self.key = key
        self._known: dict[str, T] = {}
        self._log = log
        # Events are numbered: the beginning of a refresh, and the end of a write. ``_set_at`` has the number of the
        # last write of each field, ``_applied`` the number of the refresh that returned the known fields.
        self._set_at: dict[str, int] = {}
        self._events = 0
        self._applied = 0
        self._ignored: set[tuple[bytes, bytes]] = set()
        # Both faces of a cache share the fields, each from its own thread.
        self._lock = ThreadLock()
        self.refresh_failed_count = 0
        self.malformed_count = 0

    async def write(self, level2: Level2 | None, field: str, rule: T | None) -> None:
        """Write a rule to Valkey, and use it from then on. None removes the field.

        Raises:
            L2UnavailableError, L2CommandError: The rule is not used. L2UnavailableError: Valkey may or may not have
                written it.
        """
        if level2 is not None:
            command = ("HDEL", self.key, field) if rule is None else ("HSET", self.key, field, self._encode(rule))
            await send(level2, [command])
        with self._lock:
            self._events += 1
            self._set_at[field] = self._events
            known = {name: value for name, value in self._known.items() if name != field}
            self._use(known if rule is None else {**known, field: rule})

    async def refresh(self, level2: Level2) -> bool:
        """Read all fields from Valkey; return False, and keep the known rules, if Valkey does not answer."""
        with self._lock:
            self._events += 1
            began = self._events
        try:
            (fields,) = await send(level2, [("HGETALL", self.key)])
        except TierCacheError as error:
            self.refresh_failed_count += 1
            self._log.debug("cannot read the %s, the known ones stay in use: %s", self.kind, error)
            return False
        with self._lock:
            self._apply(began, fields)
        return True

    def _apply(self, began: int, fields: list[bytes]) -> None:
        # If a later refresh has been applied already, this answer is older than the known rules.
        if began > self._applied:
            self._applied = began
            read = self._read(fields)
            for field, set_at in list(self._set_at.items()):
                if set_at <= began:
                    del self._set_at[field]
                    continue
                # This process wrote the field after the refresh began: the answer may not contain it.
                read.pop(field, None)
                if field in self._known:
                    read[field] = self._known[field]
            self._use(read)

    def _use(self, rules: dict[str, T]) -> None:
        """Use ``rules`` from now on. The caller holds the lock."""
        self._known = rules

    def _read(self, fields: list[bytes]) -> dict[str, T]:
        rules = {}
        # Only the fields that are there now: a set of all fields ever ignored would grow for ever.
        ignored: set[tuple[bytes, bytes]] = set()
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            name = field.decode(errors="replace")
            is_name = name.encode() == field and len(field) <= _LONGEST_FIELD_BYTES
            rule = self._decode(name, value) if is_name and len(value) <= MOST_BYTES else None
            if rule is not None:
                rules[name] = rule
                continue
            ignored.add((field, value))
            if (field, value) not in self._ignored:
                self.malformed_count += 1
                self._log.warning(self._complaint, shown(name), shown(value))
        self._ignored = ignored
        return rules

    # The form of the hash

    _complaint: str

    def _encode(self, rule: T) -> str:
        """Return the value of the field that holds ``rule``."""
        raise NotImplementedError

    def _decode(self, field: str, value: bytes) -> T | None:
        """Return the rule in a field, or None if the field cannot be read."""
        raise NotImplementedError
