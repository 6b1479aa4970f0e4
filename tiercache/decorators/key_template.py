"""Key templates, such as ``user:{user_id}:{question:hash}``: the caller's own form of a key."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from datetime import date
from enum import Enum
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from ..errors import UsageError
from ..text import check_name, shown
from .typed_values import typed_json

__all__ = ["KeyTemplate"]

_HASH_CHARACTERS: Final = 32
_ROOT: Final = re.compile(r"[^.\[]*")
_HASH_SUFFIX: Final = "_hash"


class _Part(NamedTuple):
    """A text of the template, and the field after it, or None at the end."""

    text: str
    field: str | None
    is_hashed: bool


class KeyTemplate:
    """A key template, checked against the names of the parameters.

    ``{name}`` stands for the text of an argument, ``{name.attribute}`` and ``{name[item]}`` for a part of it,
    and ``{name:hash}`` or ``{name_hash}`` for a hash of an argument of any type that a key can hold.

    Two calls with other texts never make the same key: between two fields stands at least one character that is no
    letter and no digit, and such characters of the template, ``%`` and ``:`` are encoded in the text of an argument.

    Raises:
        UsageError: ``text`` is empty or no template, has nothing between two fields, or has a field that is no
            parameter of the function, or that is ignored.
    """

    def __init__(self, text: str, names: Sequence[str]) -> None:
        check_name(text, "key")
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise UsageError(f"key {text!r} is no template: {error}") from error
        self._parts = [self._part(text, names, *part) for part in parsed]
        for part in self._parts[1:]:
            if part.field is not None and not _marks_of(part.text):
                raise UsageError(f"key {text!r} needs a character such as ':' between two fields")
        marks = {"%", ":"}.union(*(_marks_of(part.text) for part in self._parts))
        self._encoded = str.maketrans({mark: _encoded(mark) for mark in marks})

    def key(self, arguments: Mapping[str, Any]) -> str:
        """Return the key of a call.

        Raises:
            UsageError: An argument has no plain text, and the template does not say ``:hash``; or it has no such part.
        """
        return "".join(
            part.text if part.field is None else part.text + _text_of(part, arguments).translate(self._encoded)
            for part in self._parts
        )

    @staticmethod
    def _part(
        template: str, names: Sequence[str], text: str, field: str | None, form: str | None, conversion: str | None
    ) -> _Part:
        if field is None:
            return _Part(text, None, is_hashed=False)
        if conversion or form not in ("", "hash"):
            raise UsageError(f"key {template!r} has {field!r} in a form that is not known: only ':hash' is")
        is_hashed = form == "hash"
        root = _root_of(field)
        shorter = field.removesuffix(_HASH_SUFFIX)
        if root not in names and shorter in names:
            field = root = shorter
            is_hashed = True
        if root not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"key {template!r} has {field!r}, and the parameters of the key are: {known}")
        return _Part(text, field, is_hashed)


def _marks_of(text: str) -> set[str]:
    """Return the characters of ``text`` that are no letters and no digits."""
    return {character for character in text if not character.isalnum()}


def _encoded(mark: str) -> str:
    return "".join(f"%{byte:02X}" for byte in mark.encode())


def _root_of(field: str) -> str:
    found = _ROOT.match(field)
    return "" if found is None else found.group()


def _text_of(part: _Part, arguments: Mapping[str, Any]) -> str:
    """Return the text that stands for the field of ``part``."""
    assert part.field is not None
    try:
        value, _ = string.Formatter().get_field(part.field, (), arguments)
    except (AttributeError, LookupError, TypeError) as error:
        raise UsageError(f"key has {{{part.field}}}, which the argument does not have: {error!r}") from error
    if part.is_hashed:
        return sha256(typed_json({part.field: value})).hexdigest()[:_HASH_CHARACTERS]
    if isinstance(value, Enum):
        value = value.value
    # Text, a number and None of the same spelling would share a key: each type has one spelling of its own.
    if type(value) in (str, int, UUID) or type(value) is date:
        return str(value)
    raise UsageError(f"{{{part.field}}} is {shown(value)}, a {type(value).__name__}: write {{{part.field}:hash}}")
