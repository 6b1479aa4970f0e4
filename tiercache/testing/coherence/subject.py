"""A subject: one key under test, and the operations of a cache on it. ``subjects`` has its kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, TypeAlias

from ...agent_cache import AgentCache

__all__ = ["Answer", "Loader", "Subject"]

Loader: TypeAlias = Callable[[], Awaitable[int]]

# The value of a mixed key is its version times this number, plus the number of the load that made the entry.
_MOST_ENTRIES: Final = 1 << 24


class Answer(NamedTuple):
    """The answer of a cache: a value or None, the source that the cache reports, and the tier and method.

    Attributes:
        tag: The tag that the entry has from now on, because the call gave it and found the entry; else None.
    """

    value: int | None
    source: str | None
    method: str
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Subject(ABC):
    """One key. The methods raise the errors of the cache."""

    tier: ClassVar[str]
    # The name of the method that ``remove_group`` calls.
    group_method: ClassVar[str]

    role: str
    number: int

    @property
    def name(self) -> str:
        """The name of the key in the database and in the history."""
        return f"{self.tier}.{self.role}.{self.number}"

    @property
    def is_quiet(self) -> bool:
        """Whether replicas invalidate the key rarely."""
        return self.role.startswith("quiet")

    @property
    def is_owned(self) -> bool:
        """Whether one replica alone changes the key."""
        return self.role in ("written", "foreign")

    @property
    def is_loaded_alone(self) -> bool:
        """Whether replicas read the key only by ``get_or_load``. A lookup would read Valkey during a load."""
        return self.role == "foreign" and self.tier in ("tool", "llm")

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the entry that every call gives; none for mixed keys."""
        if self.tier == "session":
            return ()
        own = {"written": self.name, "quiet_tag": self.name}
        return (own.get(self.role, self.role),) if self.role in ("tagged", *own) else ()

    def value_of(self, version: int, entry: int) -> int:
        """Return the value of the entry that the load number ``entry`` makes."""
        return version * _MOST_ENTRIES + entry if self.role == "mixed" else version

    def split(self, value: int | None) -> tuple[int | None, int]:
        """Return the version and the number of the entry in a value: 0 for keys whose entries have no number."""
        return divmod(value, _MOST_ENTRIES) if self.role == "mixed" and value is not None else (value, 0)

    @property
    def invalidation(self) -> str:
        """The name of the method that ``invalidate`` calls."""
        return {"quiet_tag": "invalidate_tag", "quiet_group": self.group_method}.get(
            self.role, f"{self.tier}.invalidate"
        )

    async def invalidate(self, cache: AgentCache) -> None:
        """Remove the key, in the way of its role."""
        if self.role == "quiet_tag":
            await cache.invalidate_tag(*self.tags)
        elif self.role == "quiet_group":
            await self.remove_group(cache)
        else:
            await self.remove(cache)

    @abstractmethod
    async def look_up(self, cache: AgentCache) -> Answer:
        """Read the key without a load."""

    @abstractmethod
    async def get_or_load(
        self, cache: AgentCache, load: Loader, *, refresh: bool = False, tags: tuple[str, ...] = ()
    ) -> Answer:
        """Read the key, with a load if it is missing, and always with a load if ``refresh`` is set."""

    @abstractmethod
    async def remove(self, cache: AgentCache) -> None:
        """Remove the key alone."""

    @abstractmethod
    async def remove_group(self, cache: AgentCache) -> None:
        """Remove every key of this tier and role."""

    @abstractmethod
    async def store(self, cache: AgentCache, version: int) -> None:
        """Store a version under the key, with its tags."""

    @abstractmethod
    async def valkey_key(self, name: str) -> str:
        """Return the full key in Valkey for a cache with the name ``name``."""

    @abstractmethod
    def decode(self, data: bytes) -> int | None:
        """Return the value in the bytes from Valkey, or None if they are no value but a placeholder."""

    @abstractmethod
    def encode(self, version: int) -> bytes:
        """Return bytes that software other than tiercache may write for a version."""
