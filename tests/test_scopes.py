"""Scopes: tenants never share an entry, on any tier, by any method, on either face; groups reach every scope."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from threading import current_thread, local
from typing import Any

import pytest
import valkey

from tests.requests import HELLO
from tests.scoped_calls import DECORATED, WAYS, Asker, Way
from tests.support import MakeCache, entry_keys
from tiercache import (
    AgentCache,
    LlmOptions,
    SessionOptions,
    SyncCached,
    SyncCachedGenerator,
    SyncCachedMany,
    SyncKvTier,
    SyncLlmTier,
    SyncToolTier,
    TierOptions,
    UsageError,
)

TENANT: ContextVar[Any] = ContextVar("tenant", default=None)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
decorated_ways = pytest.mark.parametrize("way", DECORATED.values(), ids=DECORATED.keys())
both_faces = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def scoped_tiers(scope: Any) -> dict[str, Any]:
    return {"llm": LlmOptions(scope=scope), "tool": TierOptions(scope=scope), "kv": TierOptions(scope=scope)}


async def asker_of(cache: AgentCache, is_async: bool, **options: Any) -> Asker:
    return await asyncio.to_thread(Asker, cache, is_async=is_async, **options)


async def check_apart(cache: AgentCache, ask: Callable[[str], Any], enter: Callable[[str], Any]) -> None:
    """Let owners ask in turn, from memory and from Valkey: each finds the value that it has loaded itself."""
    for owner in ("alice", "bob", "a:b%"):
        with enter(owner):
            assert await ask(f"of {owner}") == f"of {owner}"
    for _ in range(2):
        for owner in ("alice", "bob", "a:b%"):
            with enter(owner):
                assert await ask("of nobody") == f"of {owner}"
        await cache.flush_writes()
        await asyncio.to_thread(cache.sync.flush_writes)
        cache.clear_l1()


# Tenants


@every_way
@both_faces
async def test_scope_of_calls_keeps_tenants_apart(cache: AgentCache, way: Way, is_async: bool) -> None:
    asker = await asker_of(cache, is_async)
    calls = cache.calls if is_async else cache.sync.calls
    assert await way(asker, "unscoped") == "unscoped"
    await check_apart(cache, lambda value: way(asker, value), lambda owner: calls(scope=owner))
    assert await way(asker, "of nobody") == "unscoped"


@every_way
@both_faces
async def test_scope_function_of_tier_keeps_tenants_apart(make_cache: MakeCache, way: Way, is_async: bool) -> None:
    cache = make_cache(name="test", **scoped_tiers(TENANT.get))
    for tier in ("memo", "named"):
        cache.tier(tier, TierOptions(scope=TENANT.get))
    asker = await asker_of(cache, is_async)

    class Entered:
        def __init__(self, owner: str) -> None:
            self._owner = owner

        def __enter__(self) -> None:
            self._token = TENANT.set(self._owner)

        def __exit__(self, *_: object) -> None:
            TENANT.reset(self._token)

    await check_apart(cache, lambda value: way(asker, value), Entered)
    # A lost context must not share, neither with a tenant nor with calls without a scope.
    for lost in (None, "", 7, b"alice"):
        with Entered(lost), pytest.raises(UsageError, match="scope must be a name"):  # type: ignore[arg-type]
            await way(asker, "of nobody")


@decorated_ways
@both_faces
async def test_scope_of_decorator_wins_over_tier_and_loses_to_calls(
    make_cache: MakeCache, way: Way, is_async: bool
) -> None:
    cache = make_cache(name="test", **scoped_tiers("of the tier"))
    cache.tier("memo", TierOptions(scope="of the tier"))
    of_tier = await asker_of(cache, is_async)
    of_function = await asker_of(cache, is_async, scope="of the function")
    assert await way(of_tier, "tier") == "tier"
    assert await way(of_function, "function") == "function"
    with cache.calls(scope="of the calls"):
        assert await way(of_function, "calls") == "calls"
        assert await way(of_tier, "of nobody") == "calls"
        with cache.calls(ttl=5), cache.calls(scope="of the tier"):
            assert await way(of_function, "of nobody") == "tier"
    assert await way(of_function, "of nobody") == "function"


async def test_scope_of_calls_is_that_of_its_cache_alone(make_cache: MakeCache) -> None:
    one, other = make_cache(name="test"), make_cache(name="other")
    with other.calls(scope="bob"):
        assert ":__tc:kvs:kv:bob:" in (await other.kv.explain("k")).key
    with one.calls(scope="alice"):
        assert ":__tc:kvs:" not in (await other.kv.explain("k")).key
        assert ":__tc:kvs:" in (await one.kv.explain("k")).key


async def test_scope_reaches_tasks_that_the_block_starts(cache: AgentCache) -> None:
    with cache.calls(scope="alice"):
        task = asyncio.create_task(cache.kv.set("k", "of alice"))
    await task
    assert await cache.kv.get("k") is None
    with cache.calls(scope="alice"):
        assert await cache.kv.get("k") == "of alice"


@both_faces
async def test_scope_function_that_raises_reaches_the_caller(make_cache: MakeCache, is_async: bool) -> None:
    def scope() -> str:
        raise LookupError("no tenant")

    cache = make_cache(name="test", kv=TierOptions(scope=scope))
    asker = await asker_of(cache, is_async)
    with pytest.raises(LookupError, match="no tenant"):
        await asker.run(asker.face.kv.get, "k")


async def test_scope_function_of_sync_face_runs_in_thread_of_caller(make_cache: MakeCache) -> None:
    here = local()
    cache = make_cache(name="test", kv=TierOptions(scope=lambda: here.tenant))

    def ask(owner: str, value: str) -> Any:
        here.tenant = owner
        return cache.sync.kv.get_or_load("k", lambda: value).value

    assert await asyncio.to_thread(ask, "alice", "of alice") == "of alice"
    assert await asyncio.to_thread(ask, "bob", "of bob") == "of bob"
    assert await asyncio.to_thread(ask, "alice", "of nobody") == "of alice"


@every_way
async def test_scope_function_runs_on_no_private_thread(make_cache: MakeCache, way: Way) -> None:
    threads: set[str] = set()

    def scope() -> str:
        threads.add(current_thread().name)
        return "alice"

    cache = make_cache(name="test", **scoped_tiers(scope))
    for tier in ("memo", "named"):
        cache.tier(tier, TierOptions(scope=scope))
    asker = await asker_of(cache, False)
    assert await way(asker, "of alice") == "of alice"
    assert await way(asker, "of nobody") == "of alice"
    await asker.run(asker.face.kv.delete_pattern, "*")
    await asker.run(asker.items.invalidate, "Paris")
    await asker.run(asker.face.llm.pin, HELLO, "pinned")
    assert await asker.run(asker.face.llm.unpin, HELLO)
    await asker.run(asker.face.tool.pin, "t", {}, "pinned")
    assert await asker.run(asker.face.tool.unpin, "t", {})
    assert threads
    assert not [name for name in threads if name.startswith("tiercache")]


async def test_scope_function_of_sync_face_is_asked_again_by_nested_calls(make_cache: MakeCache) -> None:
    here = local()
    cache = make_cache(name="test", kv=TierOptions(scope=lambda: here.tenant))
    kv = cache.sync.kv

    def load() -> str:
        here.tenant = "bob"
        try:
            kv.set("k", "of bob")
        finally:
            here.tenant = "alice"
        return "of alice"

    def ask(owner: str) -> Any:
        here.tenant = owner
        return kv.get_or_load("k", load).value

    assert await asyncio.to_thread(ask, "alice") == "of alice"
    assert await asyncio.to_thread(ask, "bob") == "of bob"


# Keys


async def test_key_handle_keeps_the_scope_with_which_it_was_made(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", **scoped_tiers(TENANT.get))
    TENANT.set("alice")
    llm, tool = cache.llm.key(HELLO), cache.tool.key("t", {"a": 1})
    await cache.llm.store(llm, "of alice")
    await cache.tool.store(tool, "of alice")
    for tenant in ("bob", None):
        TENANT.set(tenant)
        assert (await cache.llm.check(llm)).response == "of alice"
        assert (await cache.tool.check(tool)).value == "of alice"
    TENANT.set("bob")
    assert not (await cache.llm.check(HELLO)).hit


async def test_key_handle_of_sync_face_needs_no_scope(make_cache: MakeCache) -> None:
    here = local()
    cache = make_cache(name="test", **scoped_tiers(lambda: here.tenant))

    def make() -> Any:
        here.tenant = "alice"
        cache.sync.llm.store(HELLO, "of alice")
        return cache.sync.llm.key(HELLO)

    key = await asyncio.to_thread(make)
    with ThreadPoolExecutor(1) as other_thread:
        assert other_thread.submit(cache.sync.llm.check, key).result().response == "of alice"
        with pytest.raises(AttributeError, match="tenant"):
            other_thread.submit(cache.sync.llm.check, HELLO).result()
        # A group has no scope, and needs none.
        assert other_thread.submit(cache.sync.llm.clear).result() == 1


@pytest.mark.parametrize("tier", ["llm", "tool"])
async def test_parameter_with_the_name_of_the_component_is_refused(cache: AgentCache, tier: str) -> None:
    params = {**HELLO, "__tc_scope": "alice"}
    for scope in (None, "bob"):
        with cache.calls(scope=scope):
            if tier == "llm":
                with pytest.raises(UsageError, match="__tc_scope"):
                    await cache.llm.check(params)
            else:
                # Without the refusal, these arguments would have the key of a call of alice.
                with pytest.raises(UsageError, match="__tc_scope"):
                    await cache.tool.check("t", {"__tc_scope": "alice", "args": {}})


async def test_load_whose_params_change_in_a_scope_is_not_stored(cache: AgentCache) -> None:
    params = {**HELLO, "messages": [{"role": "user", "content": "a"}]}

    async def load(given: Any) -> str:
        given["messages"][0]["content"] = "b"
        return "of a"

    with cache.calls(scope="alice"):
        await cache.llm.get_or_load(params, load)
        assert not (await cache.llm.check({**HELLO, "messages": [{"role": "user", "content": "a"}]})).hit


async def test_load_that_loses_its_scope_is_stored_under_its_key(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", **scoped_tiers(TENANT.get))

    async def load() -> str:
        TENANT.set("bob")
        return "of alice"

    function = cache.memoize(scope=TENANT.get, name="f")(load)
    TENANT.set("alice")
    await cache.llm.get_or_load(HELLO, load)
    await cache.tool.get_or_load("t", {}, load)
    assert await function() == "of alice"
    assert await function.is_cached()
    assert (await cache.llm.check(HELLO)).response == "of alice"
    assert (await cache.tool.check("t", {})).value == "of alice"
    TENANT.set("bob")
    assert not (await cache.llm.check(HELLO)).hit
    assert not (await cache.tool.check("t", {})).hit


# Changes


async def test_invalidate_and_explain_use_the_scope_in_force(cache: AgentCache) -> None:
    for owner in ("alice", "bob"):
        with cache.calls(scope=owner):
            await cache.llm.store(HELLO, owner)
            await cache.tool.store("t", {}, owner)
            await cache.kv.set("k", owner)
            await cache.kv.set("l", owner)
    with cache.calls(scope="alice"):
        assert await cache.llm.invalidate(HELLO)
        assert await cache.tool.invalidate("t", {})
        assert await cache.kv.delete("k")
        assert await cache.kv.delete_many(["l", "m"]) == 1
        assert (await cache.llm.explain(HELLO)).source is None
    with cache.calls(scope="bob"):
        assert (await cache.llm.explain(HELLO)).source == "l1"
        assert (await cache.tool.explain("t", {})).source == "l1"
        assert (await cache.kv.explain("k")).source == "l1"
        assert await cache.kv.get_many(["k", "l"]) == {"k": "bob", "l": "bob"}


@both_faces
async def test_guard_invalidates_the_entry_of_its_beginning(make_cache: MakeCache, is_async: bool) -> None:
    cache = make_cache(name="test", **scoped_tiers(TENANT.get))
    asker = await asker_of(cache, is_async)
    face = asker.face
    for owner in ("alice", "bob"):
        TENANT.set(owner)
        await asker.run(face.llm.store, HELLO, owner)
        await asker.run(face.tool.store, "t", {}, owner)
        await asker.run(face.kv.set, "k", owner)
    # Guards are made where there is no tenant yet, as decorators are.
    TENANT.set(None)
    guards = [await asker.run(face.llm.invalidates, HELLO), await asker.run(face.tool.invalidates, "t", {})]
    guards.append(await asker.run(face.kv.invalidates, "k"))
    for guard in guards:
        TENANT.set("alice")
        if is_async:
            async with guard:
                TENANT.set(None)
        else:
            await asyncio.to_thread(guard.__enter__)
            TENANT.set(None)
            await asyncio.to_thread(guard.__exit__, None, None, None)
    for owner, is_left in (("alice", False), ("bob", True)):
        TENANT.set(owner)
        assert (await asker.run(face.llm.check, HELLO)).hit is is_left
        assert (await asker.run(face.tool.check, "t", {})).hit is is_left
        assert await asker.run(face.kv.exists, "k") is is_left


async def test_pin_is_that_of_the_scope_in_force(cache: AgentCache) -> None:
    with cache.calls(scope="alice"):
        await cache.llm.pin(HELLO, "of alice")
        await cache.tool.pin("t", {}, "of alice")
        assert (await cache.llm.check(HELLO)).response == "of alice"
        assert (await cache.tool.check("t", {})).value == "of alice"
    for scope in (None, "bob"):
        with cache.calls(scope=scope):
            assert not (await cache.llm.check(HELLO)).hit
            assert not (await cache.tool.check("t", {})).hit
            assert not await cache.llm.unpin(HELLO)
    with cache.calls(scope="alice"):
        assert await cache.llm.unpin(HELLO)


# The methods that make no key of a single entry.
UNSCOPED = {
    "clear",
    "invalidate_by_model",
    "invalidate_by_tool",
    "set_policy",
    "refresh_policies",
    "pins",
    "invalidates",
}


@pytest.mark.parametrize(
    "kind", [SyncLlmTier, SyncToolTier, SyncKvTier, SyncCached, SyncCachedMany, SyncCachedGenerator]
)
def test_methods_of_sync_face_look_for_the_scope(kind: type) -> None:
    using_face = {
        name
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and re.search(r"_face\.(run|call)\(", inspect.getsource(member))
    }
    assert using_face <= UNSCOPED


GROUPS: dict[str, Callable[[AgentCache, Asker], Any]] = {
    "llm.clear": lambda cache, asker: cache.llm.clear(),
    "invalidate_by_model": lambda cache, asker: cache.llm.invalidate_by_model("gpt-4o"),
    "tool.clear": lambda cache, asker: cache.tool.clear(),
    "invalidate_by_tool": lambda cache, asker: cache.tool.invalidate_by_tool("t"),
    "kv.clear": lambda cache, asker: cache.kv.clear(),
    "memoized.clear": lambda cache, asker: asker.function.clear(),
    "invalidate_tag": lambda cache, asker: cache.invalidate_tag("x"),
    "flush": lambda cache, asker: cache.flush(),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("evicts", [False, True], ids=["indexed", "swept"])
async def test_group_reaches_every_scope(make_cache: MakeCache, plain: valkey.Valkey, name: str, evicts: bool) -> None:
    plain.config_set("maxmemory-policy", "allkeys-lru" if evicts else "noeviction")
    try:
        cache = make_cache(name="test")
        asker = await asker_of(cache, True)
        for scope in (None, "alice", "bob"):
            with cache.calls(scope=scope):
                if name == "flush":
                    await cache.kv.set("k", "x")
                    await cache.tool.store("t", {}, "x")
                if name in ("llm.clear", "invalidate_by_model", "flush"):
                    await cache.llm.store(HELLO, "x")
                elif "tool" in name:
                    await cache.tool.store("t", {}, "x")
                elif name == "memoized.clear":
                    await asker.function("Paris")
                else:
                    await cache.kv.set("k", "x", tags=["x"])
                    await cache.kv.set("k*[:]é", "x", tags=["x"])
        await cache.flush_writes()
        cache.clear_l1()
        count = {"kv.clear": 6, "invalidate_tag": 6, "flush": 9}.get(name, 3)
        assert len(entry_keys(plain)) == count
        assert await GROUPS[name](cache, asker) == count
        assert entry_keys(plain) == []
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


async def test_reindex_finds_tags_of_scoped_values(cache: AgentCache, plain: valkey.Valkey) -> None:
    with cache.calls(scope="alice"):
        await cache.kv.set("k", "x", tags=["x"])
    plain.delete("test:__tc:idx:tag:x")
    assert await cache.reindex() == 1
    assert plain.zrange("test:__tc:idx:tag:x", 0, -1) == [b"test:__tc:kvs:kv:alice:k"]


async def test_change_of_scoped_value_by_another_process_is_seen(replicas: tuple[AgentCache, AgentCache]) -> None:
    a, b = replicas
    with a.calls(scope="alice"), b.calls(scope="alice"):
        await a.kv.set("k", "older")
        assert await b.kv.get("k") == "older"
        await a.kv.set("k", "newer")
        await b.kv.get("other")
        for _ in range(200):
            if await b.kv.get("k") == "newer":
                break
            await asyncio.sleep(0.01)
        assert await b.kv.get("k") == "newer"


# Batches


async def test_batch_loader_calls_its_function_for_one_scope_at_a_time(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", **scoped_tiers(TENANT.get))
    calls: list[tuple[Any, int]] = []

    async def of_tenant(many: list[Any]) -> list[Any]:
        calls.append((TENANT.get(), len(many)))
        return [TENANT.get() for _ in many]

    loaders = cache.llm.batch_loader(of_tenant), cache.tool.batch_loader(of_tenant), cache.kv.batch_loader(of_tenant)

    async def ask(owner: str, number: int) -> None:
        TENANT.set(owner)
        llm, tool, kv = loaders
        assert (await cache.llm.get_or_load({**HELLO, "n": number}, llm)).response == owner
        assert (await cache.tool.get_or_load("t", {"n": number}, tool)).value == owner
        assert (await cache.kv.get_or_load(str(number), kv)).value == owner

    await asyncio.gather(*(ask(owner, number) for owner in ("alice", "bob") for number in range(3)))
    assert sorted(calls) == sorted([("alice", 3), ("bob", 3)] * 3)


# Options


async def text_of(city: str) -> str:
    return city


@pytest.mark.parametrize("scope", ["", 7, b"x", "\ud800", "x" * 513, ["x"]])
async def test_scope_that_is_no_name_is_refused(cache: AgentCache, scope: Any) -> None:
    for make in (
        lambda: TierOptions(scope=scope),
        lambda: cache.calls(scope=scope),
        lambda: cache.sync.calls(scope=scope),
        lambda: cache.memoize(scope=scope)(text_of),
    ):
        with pytest.raises(UsageError, match="scope"):
            make()


def test_session_refuses_a_scope() -> None:
    with pytest.raises(UsageError, match="session must have no scope"):
        AgentCache.in_memory(session=TierOptions(scope="alice"))
    with pytest.raises(TypeError):
        SessionOptions(scope="alice")  # type: ignore[call-arg]


async def test_scope_leaves_sessions_as_they_are(cache: AgentCache) -> None:
    await cache.session.set("thread", "f", "x")
    with cache.calls(scope="alice"):
        assert await cache.session.get("thread", "f") == "x"


async def test_scoped_key_that_is_too_long_is_refused(cache: AgentCache) -> None:
    with cache.calls(scope="é:" * 100):
        # 24 bytes of the prefix, and 500 of the scope, in which a colon takes three bytes.
        await cache.llm.store(HELLO, "x")
        with pytest.raises(UsageError, match="key must be at most"):
            await cache.kv.set("k", "x")
