"""tiercache itself, through its public API."""

import importlib.util
from functools import partial
from typing import Any

import tiercache
from benchmarks.data import NAME, TTL, Answer, Params, answered
from benchmarks.peers.protocol import Load, Peer, Setting
from tiercache import AgentCache, L1Options, LlmResponse, LlmTier, TierOptions

_MANY_BYTES = 1 << 33


class Tiercache(Peer):
    title = "tiercache"
    levels = frozenset({"l1", "l2", "memory"})
    made_at_open = frozenset(
        {
            "tool_check",
            "tool_store",
            "session_get",
            "session_set",
            "session_all",
            "destroy_thread",
            "invalidate_tool",
            "invalidate_model",
            "get",
            "set",
            "get_many",
        }
    )
    if hasattr(LlmTier, "key"):
        made_at_open |= {"prepare", "check_prepared"}
    if hasattr(AgentCache, "wrap"):
        made_at_open |= {"wrap"}
    if hasattr(AgentCache, "memoize"):
        made_at_open |= {"decorated", "decorated_key", "by_decorated_key"}

    def options(self, setting: Setting) -> dict[str, Any]:
        tier = TierOptions(l1=setting.use != "l2")
        options = dict.fromkeys(("llm", "tool", "session", "kv"), tier)
        if setting.max_entries != Setting.max_entries:
            options["l1"] = L1Options(max_entries=setting.max_entries, max_bytes=_MANY_BYTES)
        return options

    async def open(self, setting: Setting) -> None:
        options: dict[str, Any] = {"name": NAME, "default_ttl": TTL, **self.options(setting)}
        if setting.use == "memory":
            self.cache = AgentCache.in_memory(**options)
        else:
            self.cache = AgentCache.from_url(setting.endpoint.url, **options)
        await self.cache.open()
        cache = self.cache
        self.check = cache.llm.check
        self.tool_check, self.tool_store = cache.tool.check, cache.tool.store
        self.session_get, self.session_set = cache.session.get, cache.session.set
        self.session_all, self.destroy_thread = cache.session.get_all, cache.session.destroy_thread
        self.invalidate_tool, self.invalidate_model = cache.tool.invalidate_by_tool, cache.llm.invalidate_by_model
        self.get, self.set, self.get_many = cache.kv.get, cache.kv.set, cache.kv.get_many
        self.settle = cache.flush_writes
        if hasattr(LlmTier, "key"):
            self.prepare, self.check_prepared = cache.llm.key, cache.llm.check
        if hasattr(AgentCache, "wrap"):
            self.wrap = cache.wrap
        if hasattr(AgentCache, "memoize"):
            self._decorate()

    def _decorate(self) -> None:
        tier = self.cache.kv
        self.decorated = decorated = tier.memoize(answered)
        prefix = f"{NAME}:__tc:kv:kv:"
        self.decorated_key = lambda text: decorated.key(text).removeprefix(prefix)
        self.by_decorated_key = partial(tier.get_or_load, loader=answered)

    async def close(self) -> None:
        await self.cache.aclose()

    async def store(self, params: Params, answer: Answer) -> Any:
        return await self.cache.llm.store(params, answer.text, tokens=answer.tokens)

    async def get_or_load(self, params: Params, load: Load) -> Any:
        async def ask(params: Params) -> LlmResponse:
            answer = await load(params)
            return LlmResponse(answer.text, tokens=answer.tokens)

        return await self.cache.llm.get_or_load(params, ask)

    def answer(self, found: Any) -> Answer | None:
        return None if found.response is None else Answer(found.response, dict(found.tokens))

    def level(self, found: Any) -> str:
        return getattr(found, "source", "")

    def text(self, found: Any) -> str | None:
        text: str | None = found if isinstance(found, str | None) else found.response
        return text

    def values(self, found: Any, keys: Any) -> list[Any]:
        return [found[key] for key in keys]


class WriteBehind(Tiercache):
    """tiercache with write-behind: a store returns once it is queued, and the work times until Valkey has it."""

    title = "tiercache, write-behind"
    works = frozenset({"store-batch", "miss-store"})

    @classmethod
    def missing(cls) -> str:
        return "" if hasattr(tiercache, "WriteOptions") else "this tiercache has no write-behind"

    def options(self, setting: Setting) -> dict[str, Any]:
        return super().options(setting) | {"writes": tiercache.WriteOptions(mode="behind")}


class OnUvloop(Tiercache):
    title = "tiercache on uvloop"
    loop = "uvloop"
    works = frozenset({"l1-hit", "l2-hit", "miss-store", "store-batch"})

    @classmethod
    def missing(cls) -> str:
        return "" if importlib.util.find_spec("uvloop") else "uvloop is not installed"
