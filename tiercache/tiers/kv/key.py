"""The keys of a kv tier: from the caller's key to the key in Valkey.

The full key, the key in Valkey, is ``{name}:__tc:kv:{tier}:{key}``, with the caller's key unchanged. The name of a
tier has no ``:``, so the keys of two tiers cannot be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from ...engine.entries.counters import TierCounters
from ...engine.entries.entry import Group
from ...engine.entries.key_pattern import escape, matcher
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ...indexes.names import kv_prefixes
from ...scopes import RUN, SCOPE, Components
from ...text import LONGEST_NAME_BYTES, check_size, check_text, encode_id

__all__ = ["ALL_KV", "KvKey", "KvKeys"]

# The group of the entries of all kv tiers.
ALL_KV: Final = Group("tiers", "kv")


class KvKey(Struct, frozen=True, gc=False):
    """The key of one entry, as the engine needs it. Immutable; it refers to no object of the caller's.

    Attributes:
        key: The key in Valkey.
        groups: The groups whose invalidation removes the entry.
    """

    key: str
    _counters: TierCounters
    groups: tuple[Group, ...]

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes of the spans of operations on the entry."""
        return {"key": self.key}


class KvKeys:
    """Makes the keys of one kv tier.

    Attributes:
        prefix: The prefix of the tier's keys in Valkey that have no components.
        prefixes: The prefixes of all keys of the tier in Valkey.
        counters: The counters of all lookups of the tier.
    """

    def __init__(self, name: str, rules: TierRules) -> None:
        unscoped, scoped = kv_prefixes(name)
        self.prefix = f"{unscoped}{rules.tier}:"
        self._scoped_start = f"{scoped}{rules.tier}:"
        self.prefixes = (self.prefix, self._scoped_start)
        self._scopes = rules.scopes
        self._calls = rules.scopes.calls
        self.counters = rules.counters.of(rules.tier)
        self._groups = (rules.group, ALL_KV)

    def of(self, key: object) -> KvKey:
        """Return the key of an entry from the caller's key. Errors as for ``full``."""
        return KvKey(self.full(key), self.counters, self._groups)

    def within(self, key: object, components: Components) -> KvKey:
        """Return the key of an entry from the caller's key, with ``components``. Errors as for ``full``."""
        return self.of_full(self._checked(key, self.prefix_of(components)))

    def of_full(self, full_key: str) -> KvKey:
        """Return the key of an entry from its key in Valkey."""
        return KvKey(full_key, self.counters, self._groups)

    def full(self, key: object) -> str:
        """Return the key in Valkey, a plain str that refers to no object of the caller's.

        Raises:
            UsageError: ``key`` is no text, is empty, is not Unicode, or is too long; or from a scope function.
        """
        if self._calls.is_used:
            return self._checked(key, self.prefix_now())
        if (
            type(key) is str
            and key
            and (full_key := self.prefix + key).isascii()
            and len(full_key) <= LONGEST_NAME_BYTES
        ):
            return full_key
        return self._checked(key, self.prefix)

    def all_full(self, keys: Iterable[str]) -> list[str]:
        """Return the keys in Valkey, each once, in order. Errors as for ``full``."""
        # A str is an iterable of str, but a caller that passes one means a single key.
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise UsageError(f"keys must be an iterable of keys, not {type(keys).__name__}")
        if self._calls.is_used:
            prefix = self.prefix_now()
            return list(dict.fromkeys([self._checked(key, prefix) for key in keys]))
        return list(dict.fromkeys(map(self.full, keys)))

    def full_pattern(self, pattern: object) -> str:
        """Return the pattern of the keys in Valkey from a pattern of the caller's keys.

        Raises:
            UsageError: ``pattern`` is no text, is empty, is not Unicode, is too long, or has a range that begins or
                ends beyond ASCII; or from a scope function.
        """
        plain = check_text(pattern, "pattern")
        if not plain:
            raise UsageError("pattern must not be empty")
        prefix = self.prefix_now()
        check_size(plain, "pattern", prefix_bytes=len(prefix.encode()))
        full = escape(prefix) + plain
        matcher(full)
        return full

    def given(self, full_key: str) -> str:
        """Return the caller's key from the key in Valkey."""
        if full_key.startswith(self.prefix):
            return full_key[len(self.prefix) :]
        return full_key[len(self._scoped_start) :].partition(":")[2]

    def prefix_now(self) -> str:
        """Return the prefix of the keys of a call that is made now. Errors as for a scope function."""
        return self.prefix_of(self._scopes.components())

    def prefix_of(self, components: Components) -> str:
        """Return the prefix of the keys that have ``components``."""
        if not components:
            return self.prefix
        texts = dict(components)
        owner = encode_id(texts.get(SCOPE, ""))
        if RUN in texts:
            # ``encode_id`` writes no other sequences than %25 and %3A, so that no scope is equal to this text.
            owner += f"%run={encode_id(texts[RUN])}"
        return f"{self._scoped_start}{owner}:"

    def _checked(self, key: object, prefix: str) -> str:
        """Return the key in Valkey of any key, with the checks that most keys do not need."""
        plain = check_text(key, "key")
        if not plain:
            raise UsageError("key must not be empty")
        check_size(plain, "key", prefix_bytes=len(prefix.encode()))
        return prefix + plain
