"""Calls of the public methods of betterdb-agent-cache, which both libraries run, and the outcomes that they compare."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import betterdb_agent_cache as betterdb
import betterdb_agent_cache.types as betterdb_types
import valkey

from tests.requests import HELLO, asking
from tiercache.compat import betterdb as compat

__all__ = [
    "DIFFERENT",
    "PARTS",
    "SAME",
    "Call",
    "Difference",
    "Steps",
    "as_plain",
    "outcomes",
    "without_name",
    "written",
]

# The parts of a cache of betterdb-agent-cache with its public methods.
PARTS: dict[str, type] = {
    "": betterdb.AgentCache,
    "llm.": betterdb.agent_cache.LlmCache,
    "tool.": betterdb.agent_cache.ToolCache,
    "session.": betterdb.agent_cache.SessionStore,
}


class Made(NamedTuple):
    """An object of a class that each library has under the same name."""

    name: str
    fields: dict[str, Any]

    def of(self, library: ModuleType) -> Any:
        """Return the object of ``library``."""
        return getattr(library, self.name)(**self.fields)


class Call(NamedTuple):
    """A call of a method, such as ``llm.check``."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


Steps = list[Call]


class Difference(NamedTuple):
    """A call whose outcomes differ on purpose. ``steps`` are run first, and only the outcome of the last one counts."""

    steps: Steps
    theirs: Any
    ours: Any


def call(method: str, *args: Any, **options: Any) -> Call:
    """Return a call of ``method``."""
    return Call(method, args, options)


def made(name: str, **fields: Any) -> Made:
    """Return an object of the class ``name`` of either library."""
    return Made(name, fields)


def llm_options(**fields: Any) -> Made:
    """Return the options of ``llm.store``."""
    return made("LlmStoreOptions", **fields)


def tool_options(**fields: Any) -> Made:
    """Return the options of ``tool.store``."""
    return made("ToolStoreOptions", **fields)


# The fields and properties of each dataclass of betterdb-agent-cache, by its class in either library.
_FIELDS: dict[type, tuple[str, list[str]]] = {}
for _name, _kind in vars(betterdb_types).items():
    if inspect.isclass(_kind) and dataclasses.is_dataclass(_kind):
        _properties = [name for name, each in vars(_kind).items() if isinstance(each, property)]
        _FIELDS[_kind] = (_name, [field.name for field in dataclasses.fields(_kind)] + _properties)
        _FIELDS[getattr(compat.types, _name)] = _FIELDS[_kind]

_ERRORS = {getattr(compat, name): name for name in ("AgentCacheUsageError", "ValkeyCommandError")}

_BLOCKS = [
    {"type": "text", "text": "Hi "},
    {"type": "tool_call", "id": "1", "name": "n", "args": {"b": 1, "a": [None]}},
]
_TOOLS = [{"type": "function", "function": {"name": "b"}}, {"type": "function", "function": {"name": "a"}}]
_COUNTS = {"input": 1000, "output": 500}
_FULL = asking(
    "é 👍🏽",
    temperature=0.5,
    top_p=0.9,
    max_tokens=5,
    tools=_TOOLS,
    tool_choice="auto",
    seed=0,
    stop=["\n"],
    response_format={"type": "json_object"},
    reasoning_effort="high",
    prompt_cache_key="k",
)

SAME: dict[str, Steps] = {
    "an answer": [call("llm.check", HELLO), call("llm.store", HELLO, "Hi"), call("llm.check", HELLO)],
    "an answer of a request with every parameter": [
        call("llm.store", _FULL, "é 👍🏽\u2028"),
        call("llm.check", {**_FULL, "tools": _TOOLS[::-1]}),
        call("llm.check", {**_FULL, "temperature": 1}),
    ],
    "token counts": [
        call("llm.store", HELLO, "Hi", llm_options(tokens=_COUNTS, ttl=50)),
        call("llm.check", HELLO),
        call("stats"),
        call("llm.store", HELLO, "", llm_options(tokens={})),
        call("llm.check", HELLO),
        call("llm.store", asking("x", "unknown"), "Hi", llm_options(tokens=_COUNTS)),
        call("llm.check", asking("x", "unknown")),
    ],
    "content blocks": [
        call("llm.store_multipart", HELLO, _BLOCKS, llm_options(ttl=60, tokens={"input": 1, "output": 2})),
        call("llm.check", HELLO),
        call("llm.store_multipart", HELLO, []),
        call("llm.check", HELLO),
    ],
    "the answers of a model": [
        call("llm.store", HELLO, "Hi"),
        call("llm.store", asking("x"), "Hi"),
        call("llm.store", asking("x", "other"), "Hi"),
        call("llm.invalidate_by_model", "gpt-4o"),
        call("llm.check", HELLO),
        call("llm.check", asking("x", "other")),
        call("llm.invalidate_by_model", "unknown"),
        call("llm.clear"),
        call("llm.clear"),
        call("llm.check", asking("x", "other")),
    ],
    "results of tools": [
        call("tool.check", "search", {"q": 1}),
        call("tool.store", "search", {"q": 1, "p": {"b": 1, "a": 2.0}}, '{"a": 1}', tool_options(cost=0.5, ttl=70)),
        call("tool.check", "search", {"p": {"a": 2.0, "b": 1}, "q": 1}),
        call("tool.store", "search", None, "no arguments"),
        call("tool.check", "search", {}),
        call("tool.store", "list", [1, {"b": 1}], ""),
        call("tool.check", "list", [1, {"b": 1}]),
        call("tool.store", "text", "é", "x"),
        call("tool.check", "text", "é"),
        call("tool.invalidate", "search", None),
        call("tool.invalidate", "search", None),
        call("tool.invalidate_by_tool", "search"),
        call("tool.invalidate_by_tool", "unknown"),
        call("tool.check", "search", {"p": {"a": 2.0, "b": 1}, "q": 1}),
    ],
    "a name of a tool with a colon": [
        call("tool.check", "a:b", {}),
        call("tool.store", "a:b", {}, "x"),
        call("tool.set_policy", "a:b", made("ToolPolicy", ttl=5)),
    ],
    "policies": [
        call("tool.get_policy", "search"),
        call("tool.set_policy", "search", made("ToolPolicy", ttl=44)),
        call("tool.get_policy", "search"),
        call("tool.list_policy_names"),
        call("tool.refresh_policies"),
        call("tool.load_policies"),
        call("tool.get_policy", "search"),
        call("tool.store", "search", {}, "by the policy"),
        call("tool.store", "search", {"q": 1}, "by the call", tool_options(ttl=33)),
        call("tool.store", "other", {}, "by the tier"),
        call("tool.check", "search", {}),
        call("stats"),
    ],
    "effectiveness": [
        call("tool.set_policy", "short", made("ToolPolicy", ttl=44)),
        call("tool.store", "short", {}, "x", tool_options(cost=0.25)),
        *[call("tool.check", "short", {}) for _ in range(3)],
        call("tool.store", "half", {}, "x", tool_options(cost=2)),
        call("tool.check", "half", {}),
        call("tool.check", "half", {"q": 1}),
        call("tool.check", "never", {}),
        call("tool_effectiveness"),
        call("stats"),
    ],
    "fields of a thread": [
        call("session.get", "t", "f"),
        call("session.set", "t", "f", "é"),
        call("session.get", "t", "f"),
        call("session.set", "t", "g:h", "", 77),
        call("session.set", "t", "i", "x", ttl=78),
        call("session.set", "u", "f", "of another thread"),
        call("session.get_all", "t"),
        call("session.get_all", "unknown"),
        call("session.scan_fields_by_prefix", "t", "g:"),
        call("session.touch", "t"),
        call("session.touch", "unknown"),
        call("session.delete", "t", "f"),
        call("session.delete", "t", "f"),
        call("session.destroy_thread", "t"),
        call("session.destroy_thread", "t"),
        call("session.get_all", "u"),
        call("stats"),
    ],
    "the whole cache": [
        call("ensure_discovery_ready"),
        call("llm.store", HELLO, "Hi"),
        call("tool.store", "search", {}, "x"),
        call("session.set", "t", "f", "x"),
        call("flush"),
        call("llm.check", HELLO),
        call("tool.check", "search", {}),
        call("session.get", "t", "f"),
        call("shutdown"),
        call("shutdown"),
    ],
}

_MISS = {"hit": False, "tier": "llm", "response": None, "content_blocks": None, "key": None}
_MISSED = ("LlmCacheResult", {**_MISS, "input_tokens": 0, "output_tokens": 0})
_FOUND = (
    "LlmCacheResult",
    {**_MISSED[1], "hit": True, "response": "for 1", "key": "{name}:llm:" + "9" * 64},
)
_USAGE = ("raises", "AgentCacheUsageError")
_REFUSED = ("raises", "ValkeyCommandError")
_NO_STATS = ("SessionStats", {"reads": 0, "writes": 0})

DIFFERENT: dict[str, Difference] = {
    "a parameter that betterdb ignores": Difference(
        [call("llm.store", {**HELLO, "top_k": 1}, "for 1"), call("llm.check", {**HELLO, "top_k": 2})], _FOUND, _MISSED
    ),
    "a request without a model": Difference([call("llm.check", {"messages": []})], ("raises", "KeyError"), _USAGE),
    "an answer that is no text": Difference([call("llm.store", HELLO, {"a": 1})], "{name}:llm:" + "9" * 64, _USAGE),
    "a lifetime of no seconds": Difference([call("llm.store", HELLO, "x", llm_options(ttl=0))], _REFUSED, _USAGE),
    "counts without output": Difference(
        [call("llm.store", HELLO, "x", llm_options(tokens={"input": 1}))],
        ("raises", "KeyError"),
        "{name}:llm:" + "9" * 64,
    ),
    "a result that is no text": Difference(
        [call("tool.store", "search", {}, {"a": 1})], "{name}:tool:search:" + "9" * 64, _USAGE
    ),
    "removing by a name with a colon": Difference([call("tool.invalidate", "a:b", {})], False, _USAGE),
    "removing all by a name with a colon": Difference([call("tool.invalidate_by_tool", "a:b")], 0, _USAGE),
    "a policy after a flush": Difference(
        [call("tool.set_policy", "s", made("ToolPolicy", ttl=9)), call("flush"), call("tool.get_policy", "s")],
        None,
        ("ToolPolicy", {"ttl": 9}),
    ),
    "forgetting policies": Difference([call("tool.reset_policies")], None, _USAGE),
    "forgetting threads": Difference([call("session.reset_tracker")], None, _USAGE),
    "a thread whose id begins another id": Difference(
        [call("session.set", "user:42", "f", "of 42"), call("session.get_all", "user")], {"42:f": "of 42"}, {}
    ),
    "a thread with a number for an id": Difference([call("session.set", 42, "f", "x")], None, _USAGE),
    "a field that is no text": Difference([call("session.set", "t", "f", 42)], ("raises", "AttributeError"), _USAGE),
    "a parameter that JSON cannot hold": Difference(
        [call("llm.check", {**HELLO, "seed": {1, 2}})], ("raises", "TypeError"), _USAGE
    ),
    "a thread without an id": Difference([call("session.get", "", "f")], None, _USAGE),
    "a lookup after the end": Difference([call("shutdown"), call("llm.check", HELLO)], _MISSED, _USAGE),
    "a write after the end": Difference([call("shutdown"), call("session.set", "t", "f", "x")], None, _USAGE),
}


async def outcomes(cache: Any, library: ModuleType, steps: Steps) -> list[Any]:
    """Run ``steps`` on the cache of a library; return the outcome of each: a plain value, or the name of an error."""
    found = []
    for method, args, options in steps:
        target = cache
        for name in method.split("."):
            target = getattr(target, name)
        given = [arg.of(library) if isinstance(arg, Made) else arg for arg in args]
        try:
            done = target(*given, **options)
            found.append(as_plain(await done if inspect.isawaitable(done) else done))
        except Exception as error:
            found.append(("raises", _ERRORS.get(type(error), type(error).__name__)))
    return found


def as_plain(value: Any) -> Any:
    """Return a result as plain values, of the fields that betterdb-agent-cache has."""
    if type(value) in _FIELDS:
        name, fields = _FIELDS[type(value)]
        return name, {field: as_plain(getattr(value, field)) for field in fields}
    if isinstance(value, Mapping):
        return {key: as_plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_plain(each) for each in value]
    return value


def written(plain: valkey.Valkey, name: str) -> dict[str, tuple[Any, int]]:
    """Return the entries, fields and policies of the cache ``name`` on the server, with the seconds that they live."""
    found: dict[str, tuple[Any, int]] = {}
    for part in ("llm", "tool", "session"):
        for key in plain.scan_iter(f"{name}:{part}:*"):
            text = plain.get(key).decode()
            entry = json.loads(text) if part != "session" else text
            if part != "session":
                assert entry.pop("storedAt") > 0
            found[key.decode().removeprefix(name)] = (entry, plain.ttl(key))
    for tool, policy in plain.hgetall(f"{name}:__tool_policies").items():
        found[f"policy of {tool.decode()}"] = (json.loads(policy), -1)
    return found


def without_name(value: Any, name: str) -> Any:
    """Return outcomes without the name of the cache in keys."""
    if isinstance(value, dict):
        return {key: without_name(each, name) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_name(each, name) for each in value)
    return value.replace(f"{name}:", "{name}:") if isinstance(value, str) else value
