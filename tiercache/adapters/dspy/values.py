"""Values of DSPy's cache as JSON, and back, without pickle.

The forms of a value are

    {"json": value}                                          JSON: an answer in DSPy's own form, embeddings, passages
    {"array": base64, "dtype": "<f4", "shape": [2, 3]}       an array of numbers
    {"items": [form, ...]}                                   a list with such arrays
    {"class": name, "fields": {...}, "cost": dollars}        an answer of LiteLLM, of one of the classes below
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from importlib import import_module
from math import prod
from typing import Any, Final

from ..extras import missing_extra

try:
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("dspy", error) from error

__all__ = ["fields_of", "from_form", "to_form"]

# The classes that are restored, and the modules that have them.
_CLASSES: Final = {
    "ModelResponse": "litellm.types.utils",
    "TextCompletionResponse": "litellm.types.utils",
    "ResponsesAPIResponse": "litellm.types.llms.openai",
}
# Truth values, whole numbers and fractions: their bytes are numbers, and never addresses.
_NUMBERS: Final = "biuf"


def to_form(value: Any) -> dict[str, Any] | None:
    """Return the form of a value, or None if no form restores it as it is."""
    # An object in the value may raise any exception.
    try:
        form = _form(value)
        if form is None:
            return None
        restored = _value(json.loads(json.dumps(form)))
        if not _is_same(restored, value):
            return None
        # A restored object may lack fields that are None. ``from_form`` compares the fields that it finds with its own.
        return {**form, "fields": fields_of(restored)} if "fields" in form else form
    except Exception:
        return None


def from_form(form: Any) -> Any:
    """Return the value of a form as a new object, or None if other software has written the form."""
    # Any program can write the entry, and another version of LiteLLM may have other fields.
    try:
        value = _value(form)
        # The classes of LiteLLM take any field, and make an empty answer of damaged ones.
        return None if "fields" in form and fields_of(value) != form["fields"] else value
    except Exception:
        return None


def fields_of(answer: BaseModel) -> dict[str, Any]:
    """Return the fields of an answer of LiteLLM as JSON."""
    return answer.model_dump(mode="json")


def _form(value: Any) -> dict[str, Any] | None:
    if _is_array(value):
        if value.dtype.kind not in _NUMBERS or value.dtype.fields is not None:
            return None
        data = b64encode(value.tobytes()).decode()
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, BaseModel):
        name = type(value).__name__
        if _CLASSES.get(name) != type(value).__module__:
            return None
        return {"class": name, "fields": fields_of(value), "cost": _hidden(value).get("response_cost")}
    if isinstance(value, list) and any(map(_is_array, value)):
        forms = [_form(item) for item in value]
        return None if None in forms else {"items": forms}
    return {"json": value}


def _value(form: Any) -> Any:
    if "json" in form:
        return form["json"]
    if "items" in form:
        return [_value(item) for item in form["items"]]
    if "array" in form:
        np = import_module("numpy")
        dtype = np.dtype(form["dtype"])
        data = b64decode(form["array"], validate=True)
        if dtype.kind not in _NUMBERS or len(data) != prod(form["shape"]) * dtype.itemsize:
            return None
        return np.frombuffer(data, dtype).reshape(form["shape"]).copy()
    answer = getattr(import_module(_CLASSES[form["class"]]), form["class"])(**form["fields"])
    if form["cost"] is not None:
        _hidden(answer)["response_cost"] = form["cost"]
    return answer


def _is_array(value: Any) -> bool:
    """Return whether ``value`` is an array of numpy, which DSPy itself does not need."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _hidden(answer: Any) -> Any:
    """Return the dict, or the object like a dict, that LiteLLM keeps beside the fields of an answer."""
    return getattr(answer, "_hidden_params", {})


def _is_same(restored: Any, value: Any) -> bool:
    """Return whether a restored value has the classes and the content of the original, at every depth."""
    if _is_array(value):
        return bool(_is_array(restored) and restored.dtype == value.dtype and restored.tobytes() == value.tobytes())
    if isinstance(value, BaseModel):
        return type(restored) is type(value) and _is_same(_content(restored), _content(value))
    if isinstance(value, dict):
        return (
            isinstance(restored, dict)
            and restored.keys() == value.keys()
            and all(_is_same(restored[name], item) for name, item in value.items())
        )
    if isinstance(value, list):
        return (
            isinstance(restored, list)
            and len(restored) == len(value)
            and all(_is_same(mine, item) for mine, item in zip(restored, value, strict=True))
        )
    return type(restored) is type(value) and restored == value


def _content(answer: BaseModel) -> dict[str, Any]:
    """Return the fields of an object that are not None: the classes of LiteLLM drop some fields that are."""
    fields = {**dict(answer), **(answer.model_extra or {})}
    return {name: value for name, value in fields.items() if value is not None}
