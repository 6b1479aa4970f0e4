"""The session keys: from a thread id and a field to the keys in Valkey.

    {name}:session:{thread_id}:{field}      the value of the field
    {name}:__tc:thread:{thread_id}          a hash: the windows of the thread's fields
    {name}:__tc:list:{thread_id}:{field}    the note of a field that holds a long list: ``scripts/session_append.lua``

``%`` and ``:`` of a thread id are percent-encoded in all, so that the keys of one thread never begin with those of
another thread. The field stands at the end of its key and may hold any text.
"""

from __future__ import annotations

from typing import NamedTuple

from ...engine.entries.entry import Group
from ...text import LONGEST_NAME_BYTES, check_name, encode_id

__all__ = ["FieldKey", "ThreadKeys", "Threads"]


class ThreadKeys(NamedTuple):
    """The keys of a thread.

    Attributes:
        id: The thread id as the caller gave it.
        prefix: The prefix of the keys of the thread's fields.
        windows: The key of the hash with the windows of the fields.
    """

    id: str
    prefix: str
    windows: str

    @property
    def group(self) -> Group:
        """The group of the thread's fields in L1."""
        return Group("thread", self.id)


class FieldKey(NamedTuple):
    """A field of a thread, with the key of its value in Valkey."""

    thread: ThreadKeys
    field: str
    key: str


class Threads:
    """Makes the keys of threads and fields, and refuses wrong thread ids and fields.

    Attributes:
        values_prefix: The prefix of the keys of all fields.
        windows_prefix: The prefix of the keys of all hashes.
        notes_prefix: The prefix of the keys of all notes.
    """

    def __init__(self, name: str) -> None:
        self.values_prefix = f"{name}:session:"
        self.windows_prefix = f"{name}:__tc:thread:"
        self.notes_prefix = f"{name}:__tc:list:"

    def thread(self, thread_id: object) -> ThreadKeys:
        """Return the keys of a thread.

        Raises:
            UsageError: ``thread_id`` is no text, is empty, or is too long (``check_name``).
        """
        thread_id = _checked(thread_id, "thread_id")
        encoded = encode_id(thread_id)
        return ThreadKeys(thread_id, f"{self.values_prefix}{encoded}:", f"{self.windows_prefix}{encoded}")

    def field(self, thread_id: object, field: object) -> FieldKey:
        """Return the key of a field. Errors as for ``thread``, for both arguments."""
        thread = self.thread(thread_id)
        field = _checked(field, "field")
        return FieldKey(thread, field, thread.prefix + field)


def _checked(value: object, name: str) -> str:
    # The quick path of most texts, which no check refuses: every lookup in L1 comes through here.
    if type(value) is str and value and value.isascii() and len(value) <= LONGEST_NAME_BYTES:
        return value
    return check_name(value, name)
