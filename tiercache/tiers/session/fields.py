"""Where a session field lies: its keys, and what may be part of one.

    {name}:session:{thread_id}:{field}      the field's value
    {name}:__tc:thread:{thread_id}          the windows of the thread's fields

``%`` and ``:`` of a thread id are percent-encoded in both, so that no thread's keys begin with another's. A field
stands at the end, and may hold anything.
"""

from __future__ import annotations

from typing import NamedTuple

from ...engine.entries.entry import Group
from ...errors import UsageError
from ...text import check_text, encode_id

__all__ = ["FieldKey", "ThreadKeys", "Threads"]


class ThreadKeys(NamedTuple):
    """A thread's keys.

    Attributes:
        id: As the caller has it.
        prefix: What the keys of its fields begin with.
        windows: The key of its hash.
    """

    id: str
    prefix: str
    windows: str

    @property
    def group(self) -> Group:
        """The group of its fields in process memory."""
        return Group("thread", self.id)


class FieldKey(NamedTuple):
    """A field of a thread, and the key of its value."""

    thread: ThreadKeys
    field: str
    key: str


class Threads:
    """Finds the keys of threads and fields; refuses what cannot be one.

    Attributes:
        values_prefix, windows_prefix: What the keys of all fields, and of all hashes, begin with.
    """

    def __init__(self, name: str) -> None:
        self.values_prefix = f"{name}:session:"
        self.windows_prefix = f"{name}:__tc:thread:"

    def thread(self, thread_id: object) -> ThreadKeys:
        """Return the keys of a thread.

        Raises:
            UsageError: It is no text, or empty.
        """
        thread_id = _checked(thread_id, "thread_id")
        encoded = encode_id(thread_id)
        return ThreadKeys(thread_id, f"{self.values_prefix}{encoded}:", f"{self.windows_prefix}{encoded}")

    def place(self, thread_id: object, field: object) -> FieldKey:
        """Return the keys of a field. Errors as for ``thread``."""
        thread = self.thread(thread_id)
        field = _checked(field, "field")
        return FieldKey(thread, field, thread.prefix + field)


def _checked(value: object, name: str) -> str:
    value = check_text(value, name)
    if not value:
        raise UsageError(f"{name} must not be empty")
    return value
