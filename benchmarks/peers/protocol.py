"""What the suite asks of a peer, and what most peers have in common.

A peer says what it can do by having the method: one that is None is a work the cache does not offer.
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

    ``use`` is "l1" (memory answers, Valkey is there), "l2" (memory is off), "both" (as shipped), or "memory" (no
    Valkey at all).
    """

    endpoint: Endpoint
    use: str = "both"
    max_entries: int = 10_000


class Peer:
    """One cache, as its users would set it up and call it."""

    title: ClassVar[str]
    levels: ClassVar[frozenset[str]] = frozenset({"l1", "l2"})
    """The values of `Setting.use` that it has, "both" being "l2"."""
    note: ClassVar[str] = ""
    """What a reader of the tables has to know of it."""
    everywhere: ClassVar[bool] = False
    """True: also asked for works of a level that it does not have, marked as such."""
    single_flight: ClassVar[bool] = True
    """True: identical misses in one process call the loader once; the checks hold it to this."""
    is_cache: ClassVar[bool] = True
    """False: a floor, never the best peer."""
    loop: ClassVar[str] = ""
    """An event loop of its own: "uvloop"."""
    works: ClassVar[frozenset[str] | None] = None
    """The only works that it is asked for; None: all that it offers."""

    made_at_open: ClassVar[frozenset[str]] = frozenset()
    """Methods that its instances get from the cache when it is opened: nothing stands between call and cache."""

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

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here, beyond an import that fails; empty when it can."""
        return ""

    @classmethod
    def can(cls, method: str) -> bool:
        """Whether it has the method."""
        return method in cls.made_at_open or getattr(cls, method) is not None

    async def open(self, setting: Setting) -> None:
        """Connect, set up for a work."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect and leave no task behind."""

    async def settle(self) -> None:
        """Return when what goes on behind the calls is done. Part of the timed work where writes are."""

    async def check(self, params: Params) -> Any:
        """Look up; whatever the library returns, to be read by `answer`."""
        raise NotImplementedError

    async def store(self, params: Params, answer: Answer) -> Any:
        """Store; returns when every level has the value, unless the peer is about not waiting."""
        raise NotImplementedError

    def answer(self, found: Any) -> Answer | None:
        """What `check` or `get_or_load` found, None for a miss."""
        return None if found is None else Answer.of_dict(found)

    def level(self, found: Any) -> str:
        """The level that answered, where the result says so."""
        return ""

    def text(self, found: Any) -> str | None:
        """What `tool_check` or `session_get` found."""
        text: str | None = found
        return text

    def values(self, found: Any, keys: Iterable[str]) -> list[Any]:
        """What `get_many` found, in the order of the keys."""
        return list(found)


class Keyed(Peer):
    """A cache of keys and values, which has no notion of requests: a peer that is given ``get`` and ``set``.

    The key is made inside the measured call, because the users of such a cache have to make it there.
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
