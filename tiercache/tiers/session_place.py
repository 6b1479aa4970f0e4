"""Where a session field lies: its keys, and what may be part of one.

    {name}:session:{thread_id}:{field}      the field's value
    {name}:__tc:thread:{thread_id}          the windows of the thread's fields

``%`` and ``:`` of a thread id are percent-encoded in both, so that no thread's keys begin with another's. A field
stands at the end, and may hold anything.
"""

from __future__ import annotations

from typing import NamedTuple

from ..engine.entry import Group
from ..errors import UsageError

__all__ = ["Place", "Thread", "Threads", "check_text", "encode_id"]


class Thread(NamedTuple):
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


class Place(NamedTuple):
    """A field of a thread, and the key of its value."""

    thread: Thread
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

    def thread(self, thread_id: object) -> Thread:
        """Return the keys of a thread.

        Raises:
            UsageError: It is no text, or empty.
        """
        thread_id = _checked(thread_id, "thread_id")
        encoded = encode_id(thread_id)
        return Thread(thread_id, f"{self.values_prefix}{encoded}:", f"{self.windows_prefix}{encoded}")

    def place(self, thread_id: object, field: object) -> Place:
        """Return the keys of a field. Errors as for ``thread``."""
        thread = self.thread(thread_id)
        field = _checked(field, "field")
        return Place(thread, field, thread.prefix + field)


def encode_id(text: str) -> str:
    """Return ``text`` as it stands in a key with something behind it, or in front of it."""
    return text.replace("%", "%25").replace(":", "%3A")


def check_text(value: object, name: str, otherwise: str = "") -> str:
    """Return ``value``, a plain str.

    Raises:
        UsageError: It is no str, or not Unicode; ``otherwise`` says what else to do.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a str, not {type(value).__name__}{otherwise}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has text that is not Unicode (a lone surrogate): {error}") from error
    # A plain str, whatever a subclass makes of itself.
    return str.__str__(value)


def _checked(value: object, name: str) -> str:
    value = check_text(value, name)
    if not value:
        raise UsageError(f"{name} must not be empty")
    return value
