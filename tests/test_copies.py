"""Copies of a cache and of its parts are the same objects, and pickling them is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tests.requests import HELLO, Loader
from tests.support import MakeCache
from tiercache import AgentCache

PARTS: dict[str, Callable[[AgentCache], Any]] = {
    "cache": lambda cache: cache,
    "llm": lambda cache: cache.llm,
    "tool": lambda cache: cache.tool,
    "session": lambda cache: cache.session,
    "kv": lambda cache: cache.kv,
    "named tier": lambda cache: cache.tier("embeddings"),
    "batch loader": lambda cache: cache.kv.batch_loader(lambda keys: dict.fromkeys(keys, 1)),
    "guard": lambda cache: cache.invalidates("tag"),
}
part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


@part
def test_copy_of_a_part_is_the_part(part: Callable[[AgentCache], Any]) -> None:
    made = part(AgentCache.from_url("valkey://127.0.0.1:1", name="test"))
    assert copy.copy(made) is made
    assert copy.deepcopy(made) is made
    assert copy.deepcopy({"client": [made]})["client"][0] is made


@part
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_a_part_is_refused_with_the_remedy(part: Callable[[AgentCache], Any], protocol: int) -> None:
    made = part(AgentCache.from_url("valkey://127.0.0.1:1", name="test"))
    with pytest.raises(TypeError, match=r"cannot pickle .*AgentCache\.from_url"):
        pickle.dumps({"client": made}, protocol)


async def test_bound_methods_in_a_deep_copy_use_the_cache(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.llm.get_or_load(HELLO, Loader())
    config = copy.deepcopy({"lookup": cache.llm.check})
    assert (await config["lookup"](HELLO)).source == "l1"
