"""prepare_params of requests that are changed at random: requests that differ share no key, and only bad ones fail."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from copy import deepcopy
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adapters.http.exchanges import BODIES
from tests.adapters.http.page import LEFT_OUT
from tests.adapters.params.corpus import CORPUS, key_of
from tiercache import UsageError
from tiercache.adapters.http.request_key import KEY_HEADERS

_NAMES: Final = ["zz", "name", "type", "text", "id", "tiercache", "role", "detail", "content", "input", "stop"]
_WORDS: Final = ["", "z", "user", "assistant", "text", "legacy:f", "message", "file"]
_SCALARS: Final = st.none() | st.integers(-2, 2) | st.sampled_from(_WORDS) | st.booleans()
_VALUES: Final = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=2)
)


def containers_in(value: Any) -> list[Any]:
    """Return the dicts and lists in a request, itself included."""
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(found for each in inner for found in containers_in(each))]


def change(draw: Any, request: Any) -> None:
    """Change a request at a random place."""
    place = draw(st.sampled_from([found for found in containers_in(request) if found]))
    if isinstance(place, dict):
        name = draw(st.sampled_from(sorted(place)) | st.sampled_from(_NAMES))
        if name in place and draw(st.booleans()):
            del place[name]
        else:
            place[name] = draw(_VALUES)
        return
    number = draw(st.integers(0, len(place) - 1))
    match draw(st.sampled_from(["drop", "double", "put", "turn"])):
        case "drop":
            del place[number]
        case "double":
            place.insert(number, deepcopy(place[number]))
        case "turn":
            place.reverse()
        case _:
            place[number] = draw(_VALUES)


@st.composite
def pairs(draw: Any) -> tuple[str, Any, Any]:
    """Return an API and two requests: one of the corpus, with one and with two changes."""
    made = draw(st.sampled_from(CORPUS))
    one = deepcopy(made.request)
    change(draw, one)
    other = deepcopy(one)
    if other:
        change(draw, other)
    return made.api, one, other


def run(coroutine: Coroutine[Any, Any, str]) -> str:
    """Return the result of a coroutine that waits for nothing; an empty str if the request is refused."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    except UsageError:
        return ""
    raise AssertionError("prepare_params waited for something")


@given(pairs())
@example(("chat", BODIES["chat"], {**BODIES["chat"], "messages": [{"role": "developer", "content": "hi"}]}))
@settings(max_examples=500, deadline=None)
def test_prepared_params_of_requests_that_differ_at_random_share_no_key(pair: tuple[str, Any, Any]) -> None:
    api, one, other = pair
    key = run(key_of(api, one))
    if key and key == run(key_of(api, other)):
        assert meaning(api, one) == meaning(api, other)


def meaning(api: str, request: dict[str, Any]) -> str:
    """Return a good request as text that is equal for the forms that docs/provider-helpers.md lists, and no others."""
    found = given_fields(request)
    headers = found.pop("extra_headers", {})
    found.update(found.pop("extra_body", {}))
    found["headers"] = {name: value for name, value in headers.items() if name in KEY_HEADERS}
    found["query"] = found.pop("extra_query", {})
    for name in ("temperature", "top_p"):
        found.setdefault(name, 1)
    for where, name in LEFT_OUT - {("chat", "prompt_cache_key")}:
        if where == api:
            found.pop(name, None)
    if isinstance(stop := found.get("stop"), str) and api == "chat":
        found["stop"] = [stop]
    if "tools" in found:
        found["tools"] = sorted(found["tools"], key=lambda tool: json.dumps(tool, sort_keys=True))
    if api == "responses" and isinstance(found.get("input"), str):
        found["input"] = [{"role": "user", "content": found["input"]}]
    name = "input" if api == "responses" else "messages"
    if name in found:
        one_form = _item if api == "responses" else _message
        found[name] = [one_form(api, message) for message in found[name]]
    return json.dumps(found, sort_keys=True)


def given_fields(value: Any) -> Any:
    """Return a copy of a value without the fields of objects that are null. The corpus has those that count."""
    if isinstance(value, dict):
        return {name: given_fields(item) for name, item in value.items() if item is not None}
    return [given_fields(item) for item in value] if isinstance(value, list) else value


def _item(api: str, item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type") == "message" and "role" in item and "content" in item:
        del item["type"]
    for part in item["content"] if isinstance(item.get("content"), list) else []:
        if part.get("type") in ("input_text", "output_text"):
            for name in ("annotations", "logprobs"):
                if part.get(name) == []:
                    del part[name]
    return item


def _message(api: str, message: dict[str, Any]) -> dict[str, Any]:
    content, role = message.get("content"), message.get("role")
    if content == "" and role == "assistant" and api == "chat":
        del message["content"]
    elif isinstance(content, str) and role in ("user", "assistant", "tool"):
        message["content"] = [{"type": "text", "text": content}]
    return message
