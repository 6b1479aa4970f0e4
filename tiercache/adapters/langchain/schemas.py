"""The schemas of answers that a text of LangChain's names by their classes alone.

LangChain describes a call with a schema by ``<class 'app.Answer'>``, without the fields. Another version of the program
has another class of that name, and the answers to its calls have another form. So the key of an answer also has the
JSON schema of the class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from ..extras import missing_extra

try:
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["schemas_of"]

_CLASS: Final = re.compile(r"<class '[^']*'>")


def schemas_of(llm_string: str) -> list[str] | None:
    """Return the schemas of the classes that the text names, or None if a class is not known for certain.

    The class of a call is alive. If several classes of its name are alive, they must have one schema.
    """
    named = set(_CLASS.findall(llm_string)) if "<class '" in llm_string else ()
    if not named:
        return []
    found: dict[str, set[str]] = {name: set() for name in named}
    for model in _subclasses(BaseModel):
        if (schemas := found.get(repr(model))) is not None:
            try:
                schemas.add(json.dumps(model.model_json_schema(), sort_keys=True))
            # A class may define its schema by functions of its own.
            except Exception:
                return None
    if any(len(schemas) != 1 for schemas in found.values()):
        return None
    return sorted(schema for schemas in found.values() for schema in schemas)


def _subclasses(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _subclasses(model)
