"""TierCacheLiteLLM: the cache behind LiteLLM's calls, on a kv tier, with a key of the whole request.

An entry is LiteLLM's own: ``{"timestamp": seconds, "response": <LiteLLM's answer as JSON>}``.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from ..agent_cache import AgentCache
from ..errors import TierCacheError, UsageError
from ..indexes.names import tag_groups
from ..ttl import Ttl, check_ttl
from .caches import check_cache, log_of
from .extras import missing_extra

try:
    import litellm
    from litellm.caching import caching_handler
    from litellm.caching.base_cache import BaseCache
    from litellm.caching.caching import Cache, CacheMode
    from litellm.types.caching import LiteLLMCacheType
    from litellm.types.utils import all_litellm_params
    from pydantic import BaseModel, TypeAdapter

    # LiteLLM imports parts of its proxy at a hit: without the packages that these need, each hit would raise an error.
    # Classes of the proxy warn of their own types.
    if (imports := getattr(caching_handler, "_should_defer_streaming_cache_hit_callbacks", None)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            imports(cached_result=None)
except ImportError as error:
    raise missing_extra("litellm", error) from error

__all__ = ["TierCacheLiteLLM"]

# Calls whose arguments make a key: the answers of each kind have one form. LiteLLM knows a file by its name alone.
_CALLS: Final[list[Any]] = [
    *("completion", "acompletion", "embedding", "aembedding"),
    *("text_completion", "atext_completion", "rerank", "arerank"),
]
# Arguments that name the server. A group of LiteLLM's router stands for servers with the same answers.
_SERVER: Final = (
    *("api_base", "base_url", "api_version", "organization", "custom_llm_provider", "azure", "region_name"),
    *("aws_region_name", "aws_bedrock_runtime_endpoint", "vertex_project", "vertex_location", "tenant_id", "model_id"),
)
# Arguments of LiteLLM itself that can change an answer.
_OWN: Final = (
    *("allowed_openai_params", "assistant_continue_message", "bos_token", "custom_prompt_dict", "data_residency"),
    *("ensure_alternating_roles", "eos_token", "final_prompt_value", "guardrails", "headers", "hf_model_name"),
    *("initial_prompt_value", "litellm_system_prompt", "merge_reasoning_content_in_choices", "mock_response"),
    *("output_vector_size", "prompt_environment", "prompt_id", "prompt_label", "prompt_variables", "prompt_version"),
    *("provider_specific_header", "roles", "supports_system_message", "thought_signature_in_tool_call_id"),
    *("use_chat_completions_api", "user_continue_message"),
)
# Arguments that cannot change an answer, beside those of LiteLLM itself: ids against abuse, hints, limits of time.
_LEFT_OUT: Final = {
    *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    *("timeout", "parent_otel_span", "litellm_params", "original_function", "dynamic_cache_object", "model", "api_key"),
}
# Arguments whose answer depends on more than the request.
_STATEFUL: Final = (
    *("previous_response_id", "conversation", "background", "container", "mcp_servers", "web_search_options", "store"),
)
_CUT: Final = {"length", "content_filter"}
# The variables of the environment by which LiteLLM finds servers.
_ENVIRONMENT: Final = re.compile(
    r"[A-Z0-9_]+_(API_BASE|BASE_URL|API_VERSION|ORGANIZATION)|OPENAI_(ORG|PROJECT)_ID|AWS_REGION(_NAME)?"
    r"|(VERTEX|VERTEXAI|GOOGLE_CLOUD)_(PROJECT|LOCATION)"
)
_GLOBALS: Final = ("api_base", "api_version", "organization", "headers", "drop_params", "modify_params")
_NO_KEY: Final = "none:"


class TierCacheLiteLLM(Cache):
    """A cache for LiteLLM: ``litellm.cache = TierCacheLiteLLM(cache)``.

    It caches completions, chat completions, embeddings and rerankings, sync and async, and LiteLLM's streams. Its key
    has every argument of a call that is not known to leave the answer as it is, and the server that the call names. So
    it takes the place of the key of LiteLLM's own class, which has a list of parameters. A call is not cached if its
    answer depends on a state of the provider or on a hosted tool, or if an argument has no JSON. An answer that was cut
    off or filtered is not stored. While Valkey is unavailable, LiteLLM asks the provider.

    Plain calls, such as ``litellm.completion``, use ``cache.sync``; a cache of process memory alone takes one of both
    kinds.

    Args:
        cache: The cache.
        ttl: Lifetime of the answers. None takes that of the tier, then the cache's. ``cache={"ttl": 60}`` of a call
            wins.
        namespace: A name in front of the keys: calls with different names share no answer. ``cache={"namespace": "a"}``
            of a call wins.
        tags: Names by which the answers can be invalidated together with other entries.
        tier: The name of the kv tier, which has no other user.
        mode: LiteLLM's mode: "default_on", or "default_off" for calls with ``cache={"use-cache": True}`` alone.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self,
        cache: AgentCache,
        *,
        ttl: Ttl | None = None,
        namespace: str | None = None,
        tags: Sequence[str] = (),
        tier: str = "litellm",
        mode: str = "default_on",
    ) -> None:
        backend = _Backend(check_cache(cache), tier, ttl, tags)
        if mode not in ("default_on", "default_off"):
            raise UsageError(f"mode must be 'default_on' or 'default_off', not {mode!r}")
        if namespace is not None and not isinstance(namespace, str):
            raise UsageError(f"namespace must be a str, not {type(namespace).__name__}")
        super().__init__(
            type=LiteLLMCacheType.LOCAL, mode=CacheMode(mode), namespace=namespace, supported_call_types=list(_CALLS)
        )
        self.cache = backend
        # LiteLLM would not cache conversations of more than four messages.
        self.max_messages = None
        self._log = log_of(cache)

    def get_cache_key(self, **kwargs: Any) -> str:
        """Return the key of a call. LiteLLM calls this."""
        preset: str | None = self._get_preset_cache_key_from_kwargs(**kwargs)
        if preset is not None:
            return preset
        digest = self._digest(kwargs)
        if digest is None:
            return f"{_NO_KEY}{uuid4().hex}"
        key: str = self._add_namespace_to_cache_key(digest, **kwargs)
        self._set_preset_cache_key_in_kwargs(key, **{k: v for k, v in kwargs.items() if k != "preset_cache_key"})
        return key

    def should_use_cache(self, **kwargs: Any) -> bool:
        """Return whether a call is cached. LiteLLM calls this."""
        base: Any = super()  # LiteLLM's method has no types.
        if base.should_use_cache(**kwargs) is not True or _is_stateful(kwargs):
            return False
        given = kwargs.get("cache_key")
        if isinstance(given, str):
            return not given.startswith(_NO_KEY)
        return self._digest(kwargs) is not None

    def _digest(self, kwargs: Mapping[str, Any]) -> str | None:
        """Return the hash of a call, or None if an argument has no JSON."""
        try:
            material = json.dumps(_material(kwargs), sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            self._log.warn_once("a call of LiteLLM has no key, and is not cached: %s", error)
            return None
        return sha256(material.encode("utf-8", "surrogatepass")).hexdigest()


class _Backend(BaseCache):
    """The entries of LiteLLM in a kv tier. No method but ``delete_cache_keys`` and ``flush_cache`` raises an error."""

    def __init__(self, cache: AgentCache, tier: str, ttl: Ttl | None, tags: Sequence[str]) -> None:
        super().__init__()
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        cache.tier(tier)  # It refuses a wrong name.
        self._cache = cache
        self._tier = tier
        self._ttl = ttl
        self._tags = tuple(tags)

    def get_cache(self, key: str, **kwargs: Any) -> Any:
        """Return an entry, or None."""
        try:
            return _entry(self._cache.sync.tier(self._tier).get(key))
        except TierCacheError as error:
            return self._warn(error)

    async def async_get_cache(self, key: str, **kwargs: Any) -> Any:
        """Return an entry, or None."""
        try:
            return _entry(await self._cache.tier(self._tier).get(key))
        except TierCacheError as error:
            return self._warn(error)

    def set_cache(self, key: str, value: Any, **kwargs: Any) -> None:
        """Store an entry, unless its answer was cut off."""
        if _is_whole(value):
            try:
                self._cache.sync.tier(self._tier).set(key, value, ttl=self._lifetime(kwargs), tags=self._tags)
            except TierCacheError as error:
                self._warn(error)

    async def async_set_cache(self, key: str, value: Any, **kwargs: Any) -> None:
        """Store an entry, unless its answer was cut off."""
        await self.async_set_cache_pipeline([(key, value)], **kwargs)

    async def async_set_cache_pipeline(self, cache_list: Iterable[tuple[str, Any]], **kwargs: Any) -> None:
        """Store entries together."""
        values = {key: value for key, value in cache_list if _is_whole(value)}
        try:
            await self._cache.tier(self._tier).set_many(values, ttl=self._lifetime(kwargs), tags=self._tags)
        except TierCacheError as error:
            self._warn(error)

    async def batch_cache_write(self, key: str, value: Any, **kwargs: Any) -> None:
        """Store an entry."""
        await self.async_set_cache(key, value, **kwargs)

    async def delete_cache_keys(self, keys: Sequence[str]) -> int:
        """Remove entries; return their number. Errors as for ``KvTier.delete_many``."""
        return await self._cache.tier(self._tier).delete_many(keys)

    def flush_cache(self) -> None:
        """Remove every entry. Errors as for ``KvTier.clear``."""
        self._cache.sync.tier(self._tier).clear()

    async def ping(self) -> bool:
        """Return whether Valkey answers."""
        return not (await self._cache.tier(self._tier).get_or_load("ping", _nothing, mode="only_cached")).degraded

    async def test_connection(self) -> dict[str, str]:
        """Return whether Valkey answers, in LiteLLM's form."""
        if await self.ping():
            return {"status": "success", "message": "Valkey answers"}
        return {"status": "failed", "message": "Valkey does not answer"}

    async def disconnect(self) -> None:
        """Do nothing: the cache belongs to the program that has made it."""

    def _lifetime(self, kwargs: Mapping[str, Any]) -> Ttl | None:
        ttl = kwargs.get("ttl")
        return self._ttl if ttl is None else ttl

    def _warn(self, error: TierCacheError) -> None:
        log_of(self._cache).warn_once("LiteLLM goes on without its cache: %s", error)


# Keys


def _material(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything on which the answer to a call may depend. Raises TypeError if there is no JSON of it."""
    own = {*all_litellm_params} - {*_SERVER, *_OWN}
    group = _group(kwargs)
    left_out = _LEFT_OUT if group is None else {*_LEFT_OUT, *_SERVER}
    params = {
        name: _plain(value)
        for name, value in kwargs.items()
        if value is not None and name not in left_out and name not in own and not name.startswith("_litellm")
    }
    # A user of the router says that the servers of a group give the same answers.
    where: dict[str, Any] = {"group": group} if group is not None else {"model": kwargs.get("model"), **_server(kwargs)}
    return {"params": params, "where": where}


def _group(kwargs: Mapping[str, Any]) -> str | None:
    """Return the group of LiteLLM's router for which a call is made, or None for a call without a router."""
    inner = kwargs.get("litellm_params")
    sources = [
        source.get(name)
        for source in (kwargs, inner if isinstance(inner, Mapping) else {})
        for name in ("litellm_metadata", "metadata")
    ]
    for metadata in sources:
        if isinstance(metadata, Mapping) and (group := metadata.get("model_group")):
            together = next((each for each in metadata.get("caching_groups") or () if group in each), None)
            return str(group if together is None else together)
    return None


def _server(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the server that answers a call without a router, as far as the process knows them."""
    client = kwargs.get("client")
    return {
        "client": [str(getattr(client, name, None)) for name in ("base_url", "organization", "project")],
        "environment": {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
        "globals": {name: _plain(getattr(litellm, name, None)) for name in _GLOBALS},
    }


def _plain(value: Any) -> Any:
    """Return a JSON value for an argument. Raises TypeError if there is none."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"sha256": sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("a dict has keys that are no text")
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, BaseModel):
        return {"class": type(value).__qualname__, "value": value.model_dump(mode="json")}
    if isinstance(value, type) and issubclass(value, BaseModel):
        return {"schema": TypeAdapter(value).json_schema(), "name": value.__name__}
    raise TypeError(f"an argument is a {type(value).__name__}")


def _is_stateful(kwargs: Mapping[str, Any]) -> bool:
    """Return whether the answer to a call depends on a state of the provider, or on a hosted tool."""
    if any(kwargs.get(name) for name in _STATEFUL):
        return True
    tools = kwargs.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, Mapping) and tool.get("type", "function") not in ("function", "custom") for tool in tools
    )


# Entries


def _entry(value: object) -> Any:
    """Return an entry that LiteLLM has written, or None for a value of another program."""
    return value if isinstance(value, dict) and "timestamp" in value and "response" in value else None


def _is_whole(value: Any) -> bool:
    """Return whether no choice of an answer was cut off or filtered."""
    try:
        choices = json.loads(value["response"])["choices"]
        return all(choice.get("finish_reason") not in _CUT for choice in choices)
    except (TypeError, ValueError, KeyError, AttributeError):
        return True  # An embedding, a ranking.


def _nothing() -> None:
    """Is never called: a lookup in mode "only_cached" does not load."""
