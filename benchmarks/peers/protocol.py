"""The interface of a peer, and the code that most peers share.

A peer offers a work by having the methods for it. A method that is None is a work that the cache does not offer.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.data import Answer, Params, request_key

Load = Callable[[Params], Awaitable[Answer]]
Method = Callable[..., Any] | None


@dataclass(frozen=True)
class Endpoint:
    """The Valkey that all peers share."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


@dataclass(frozen=True)
class Setting:
    """How a cache is set up for a work.

    ``use`` is "l1" (memory answers and Valkey runs), "l2" (memory is off), "both" (as shipped), or "memory" (no
    Valkey).
    """

    endpoint: Endpoint
    use: str = "both"
    max_entries: int = 10_000


class Peer:
    """One cache, as its users would set it up and call it."""

    title: ClassVar[str]
    levels: ClassVar[frozenset[str]] = frozenset({"l1", "l2"})
    """The values of `Setting.use` that the cache supports; "l2" includes "both"."""
    note: ClassVar[str] = ""
    """A fact about the cache that a reader of the tables must know."""
    joins_every_level: ClassVar[bool] = False
    """True: the cache is also measured at levels that it does not have, and the tables mark these figures."""
    single_flight: ClassVar[bool] = True
    """True: identical misses in one process call the loader once; the checks enforce this."""
    is_cache: ClassVar[bool] = True
    """False: this is a floor and no cache."""
    loop: ClassVar[str] = ""
    """The event loop that this peer needs, "uvloop"; empty: the loop of the run."""
    works: ClassVar[frozenset[str] | None] = None
    """The only works that the peer takes part in; None: all works that it offers."""

    made_at_open: ClassVar[frozenset[str]] = frozenset()
    """Methods that ``open`` takes directly from the cache, so that no wrapper adds to the time of a call."""

    get_or_load: Method = None
    prepare: Method = None
    check_prepared: Method = None
    tool_check: Method = None
    tool_store: Method = None
    session_get: Method = None
    session_set: Method = None
    session_all: Method = None
    destroy_thread: Method = None
    invalidate_tool: Method = None
    invalidate_model: Method = None
    get: Method = None
    set: Method = None
    get_many: Method = None
    pipelined: Method = None
    wrap: Method = None
    decorated: Method = None
    decorated_key: Any = None
    by_decorated_key: Method = None

    @classmethod
    def missing(cls) -> str:
        """Return why the peer cannot be measured here, except for a failed import; empty if it can."""
        return ""

    @classmethod
    def can(cls, method: str) -> bool:
        """Return whether the peer has the method."""
        return method in cls.made_at_open or getattr(cls, method) is not None

    async def open(self, setting: Setting) -> None:
        """Connect and set up the cache for a work."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect and end every task."""

    async def settle(self) -> None:
        """Wait for the background work of earlier calls. Works that write include this in the time."""

    async def check(self, params: Params) -> Any:
        """Look up a request; `answer` reads the result, which is the library's own object."""
        raise NotImplementedError

    async def store(self, params: Params, answer: Answer) -> Any:
        """Store an answer; return when every level has it, unless the peer is a write-behind cache."""
        raise NotImplementedError

    def answer(self, found: Any) -> Answer | None:
        """Return the answer in a result of `check` or `get_or_load`, or None for a miss."""
        return None if found is None else Answer.of_dict(found)

    def level(self, found: Any) -> str:
        """Return the level that answered, or an empty text if the result does not say."""
        return ""

    def text(self, found: Any) -> str | None:
        """Return the text in a result of `tool_check` or `session_get`, or None for a miss."""
        text: str | None = found
        return text

    def values(self, found: Any, keys: Iterable[str]) -> list[Any]:
        """Return the values in a result of `get_many`, in the order of the keys."""
        return list(found)


class Keyed(Peer):
    """A cache of keys and values, which knows no requests: its peer has ``get`` and ``set``.

    The measured call makes the key, because users of such a cache must make it there.
    """

    async def check(self, params: Params) -> Any:
        return await self.get(request_key(params))

    async def store(self, params: Params, answer: Answer) -> Any:
        await self.set(request_key(params), answer.as_dict())

    def prepare(self, params: Params) -> Any:
        return request_key(params)

    async def check_prepared(self, key: Any) -> Any:
        return await self.get(key)

    async def tool_check(self, tool: str, args: Any) -> Any:
        return await self.get(f"tool:{tool}:{request_key(args)}")

    async def tool_store(self, tool: str, args: Any, text: str) -> None:
        await self.set(f"tool:{tool}:{request_key(args)}", text)

    async def session_get(self, thread: str, field: str) -> Any:
        return await self.get(f"session:{thread}:{field}")

    async def session_set(self, thread: str, field: str, text: str) -> None:
        await self.set(f"session:{thread}:{field}", text)
