"""The bytes of keys with a scope: fixed vectors, and the hashed text of each."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from tests.requests import HELLO
from tiercache import AgentCache, LlmOptions

LLM = '{"__tc_scope":SCOPE,"messages":[{"content":"Hello","role":"user"}],"model":"gpt-4o","temperature":1,"top_p":1}'
TOOL = '{"__tc_scope":SCOPE,"args":{"city":"Paris","n":1}}'
NO_ARGS = '{"__tc_scope":SCOPE,"args":{}}'


@pytest.mark.parametrize("scope", ["alice", "a:b%", "Zoë", '"'])
async def test_scoped_key_is_stable(cache: AgentCache, scope: str) -> None:
    def hashed(text: str) -> str:
        return sha256(text.replace("SCOPE", json.dumps(scope, ensure_ascii=False)).encode()).hexdigest()

    encoded = scope.replace("%", "%25").replace(":", "%3A")
    with cache.calls(scope=scope):
        for _ in range(2):
            assert str(cache.llm.key(HELLO)) == f"test:llm:{hashed(LLM)}"
            assert str(cache.tool.key("t", {"n": 1, "city": "Paris"})) == f"test:tool:t:{hashed(TOOL)}"
            assert (await cache.kv.explain("a:b")).key == f"test:__tc:kvs:kv:{encoded}:a:b"
            assert (await cache.tier("x").explain("k")).key == f"test:__tc:kvs:x:{encoded}:k"
        assert str(cache.tool.key("t", None)) == f"test:tool:t:{hashed(NO_ARGS)}"


async def test_scoped_key_has_fixed_bytes(cache: AgentCache) -> None:
    @cache.memoize(name="f", key="user:{user}")
    async def function(user: int) -> int:
        return user

    def digests() -> list[str]:
        keys = cache.llm.key(HELLO), cache.tool.key("t", {"city": "Paris"})
        return [str(key).rpartition(":")[2] for key in keys]

    with cache.calls(scope="alice"):
        assert digests() == [
            "7f32055e885b27685af70796817f89b842fb31ab78acb4d2411529b09e85d59d",
            "440f0228cfaa9cd3b5d680489b6db5378a54b2d4246d50d4db122109093bd92c",
        ]
        assert function.key(7) == "test:__tc:kvs:memo:alice:f:1:user:7"
    assert digests() == [
        "029b2f180b42427a44aa63db387e7b421c8454ae987a6a41d3099363a67f67c5",
        "6e1e312d537bc71b5410b0599f5a508142149e13174c6ee0d1671658845bc67d",
    ]
    assert function.key(7) == "test:__tc:kv:memo:f:1:user:7"


@pytest.mark.parametrize(
    "params",
    [HELLO, {**HELLO, "seed": 2**70}, {**HELLO, "stop": ("a", "b")}, {**HELLO, "user": "Zoë", "x": "y" * 20_000}],
    ids=["json", "marshal", "tuple", "long text"],
)
@pytest.mark.parametrize("options", [LlmOptions(), LlmOptions(ignore=("z",))], ids=["whole", "reduced"])
def test_known_key_of_one_scope_is_not_found_in_another(params: Any, options: LlmOptions) -> None:
    cache = AgentCache.in_memory(name="test", llm=options)
    keys: dict[str | None, set[str]] = {}
    for _ in range(3):
        for scope in (None, "alice", "bob"):
            with cache.calls(scope=scope):
                keys.setdefault(scope, set()).add(str(cache.llm.key(params)))
                keys[scope].add(str(cache.tool.key("t", params)))
    assert [len(found) for found in keys.values()] == [2, 2, 2]
    assert len(set().union(*keys.values())) == 6
