"""OpenAI's Responses API, also of Azure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from ..answer import Answer
from .api import UNREADABLE, Api, Ending, Event
from .parts import counted, is_asked, is_given, json_events, kind_in, mapping, mappings, searches_web, text, tools_in

__all__ = ["Responses"]

_STATE: Final = ("previous_response_id", "conversation", "background", "store")
# The caller runs these tools. A tool of any other type runs at the provider, or acts on a machine.
_OWN_TOOLS: Final = frozenset({"function", "custom", "apply_patch"})
_NAMESPACE: Final = "namespace"
# The last event of an answer, whole or cut off.
_LAST: Final = ("response.completed", "response.incomplete")
_ENDINGS: Final = {
    b"response.completed": Ending.LAST,
    b"response.failed": Ending.ERROR,
    b"response.incomplete": Ending.LAST,
    b"response.cancelled": Ending.ERROR,
    b"error": Ending.ERROR,
}


class Responses(Api):
    """``POST .../responses``."""

    name: ClassVar[str] = "responses"
    suffix: ClassVar[str] = "/responses"
    asked_by: ClassVar[tuple[str, ...]] = ("model", "prompt")

    def state_in(self, body: Mapping[str, Any]) -> str | None:
        for name in _STATE:
            if is_asked(body.get(name)):
                return name
        prompt = body.get("prompt")
        if is_given(prompt) and not text(mapping(prompt).get("version")):
            return "prompt without a version"
        modalities = body.get("modalities")
        if isinstance(modalities, list) and "audio" in modalities:
            return "audio"
        if searches_web(body.get("model")):
            return "the model searches the web"
        given = body.get("input")
        # An item of the input may bring further tools.
        later = [item.get("tools") for item in given if isinstance(item, dict)] if isinstance(given, list) else []
        if any(_runs_elsewhere(tool) for tool in tools_in(body.get("tools"), *later)):
            return "a tool of the provider"
        return None

    def ending(self, field: bytes, value: bytes) -> Ending | None:
        kind = kind_in(field, value)
        return None if kind is None else _ENDINGS.get(kind)

    def read(self, data: object) -> Answer:
        response = mapping(data)
        output = mappings(response.get("output"))
        status = text(response.get("status"))
        if output is None or is_given(response.get("error")):
            return UNREADABLE
        texts: list[str] = []
        is_refused = False
        for item in output:
            for part in mappings(item.get("content")) or ():
                if part.get("type") == "output_text":
                    texts.append(text(part.get("text")))
                is_refused = is_refused or part.get("type") == "refusal"
        return Answer(
            "".join(texts),
            text(response.get("model")),
            counted(response.get("usage"), input=("input_tokens",), output=("output_tokens",)),
            (status,),
            status == "completed" and not is_refused and not is_given(response.get("incomplete_details")),
        )

    def read_events(self, events: Iterable[Event]) -> Answer:
        # Some servers send the last event of chat completions, too.
        read = json_events(event for event in events if not event.data.startswith(b"[DONE]"))
        kinds = [event.get("type") for event in read or ()]
        if not read or kinds[-1] not in _LAST or sum(map(kinds.count, _LAST)) != 1 or "error" in kinds:
            return UNREADABLE
        return self.read(read[-1].get("response"))


def _runs_elsewhere(tool: Mapping[str, Any] | None) -> bool:
    """Return whether a tool runs at the provider, as every unknown tool does."""
    if tool is None:
        return True
    kind = tool.get("type")
    if kind == _NAMESPACE:
        inner = mappings(tool.get("tools"))
        return inner is None or any(each.get("type") == _NAMESPACE or _runs_elsewhere(each) for each in inner)
    return not isinstance(kind, str) or kind not in _OWN_TOOLS
