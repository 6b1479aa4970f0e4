"""The keys of a store of conversations in Valkey.

    {name}:__tc:conv:{<store>}:r:<conversation id>   hash: the record of a conversation
    {name}:__tc:conv:{<store>}:e:<entry id>          hash: an entry of the log
    {name}:__tc:conv:{<store>}:all                   zset: the conversations, by the microsecond of their save
    {name}:__tc:conv:{<store>}:s:<scope>             zset: those of one scope

The braces around the name of the store are a hash tag, so that all keys of a store lie in one slot.
"""

from __future__ import annotations

import re
from typing import Final

from ...errors import UsageError
from ...text import check_size, check_text, shown

__all__ = ["ConversationKeys"]

_STORE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class ConversationKeys:
    """Makes the keys of one store, and refuses wrong names.

    Attributes:
        prefix: The prefix of all keys.
        all: The key of the zset of all conversations.

    Raises:
        UsageError: ``store`` is no name of a store.
    """

    def __init__(self, name: str, store: object) -> None:
        if not isinstance(store, str) or not _STORE_NAME.fullmatch(store):
            raise UsageError(f"the name of a store must be 1 to 128 of A-Z a-z 0-9 _ -, not {shown(store)}")
        self.prefix = f"{name}:__tc:conv:{{{store}}}:"
        self.all = f"{self.prefix}all"

    def record(self, conversation_id: str) -> str:
        """Return the key of a record."""
        return f"{self.prefix}r:{conversation_id}"

    def entry(self, entry_id: str) -> str:
        """Return the key of an entry."""
        return f"{self.prefix}e:{entry_id}"

    def listed(self, scope: str | None) -> str:
        """Return the key of the zset of the conversations of a scope, or of all."""
        return self.all if scope is None else f"{self.prefix}s:{scope}"

    @staticmethod
    def check(text: object, name: str) -> None:
        """Refuse an id or a scope that a key cannot contain.

        Raises:
            UsageError: ``text`` is no text, or is longer than 512 bytes.
        """
        check_size(check_text(text, name), name)
