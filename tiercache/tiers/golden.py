"""Golden files: the answers that a cache must give, and the report about those that it gives.

A golden file is JSON Lines in UTF-8, one object for each expected answer; blank lines are skipped::

    {"tier":"llm","params":{"model":...,"messages":[...]},"response":"the text, or a list of content blocks"}
    {"tier":"tool","tool":"the name","args":{...},"value":any JSON value}

``args`` may be missing or null for a call without arguments. Every object may have a text ``note`` for its readers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from ..errors import UsageError
from ..text import shown
from .keys.canonical_json import canonical_json

__all__ = ["ExpectedAnswer", "GoldenAnswer", "GoldenReport", "are_equal", "read_golden"]

_FIELDS: Final = {"llm": {"params", "response"}, "tool": {"tool", "args", "value"}}
_OPTIONAL: Final = {"args", "note"}


class ExpectedAnswer(NamedTuple):
    """One line of a golden file.

    Attributes:
        line: The number of the line, from 1.
        fields: The object in the line, whose form is checked.
    """

    line: int
    tier: Literal["llm", "tool"]
    fields: Mapping[str, Any]

    @property
    def expected(self) -> Any:
        """The expected answer."""
        return self.fields["response" if self.tier == "llm" else "value"]


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """One answer that is not the expected one.

    Attributes:
        line: The number of its line in the golden file, from 1.
        tier: "llm" or "tool".
        key: The key in Valkey.
        expected: The answer in the golden file.
        found: The answer of the cache; None if it has none.
    """

    line: int
    tier: Literal["llm", "tool"]
    key: str
    expected: Any
    found: Any = None

    def __str__(self) -> str:
        return f"line {self.line} ({self.tier}): expected {shown(self.expected)}, found {shown(self.found)}"


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """The comparison of a cache with a golden file. True if the cache has every answer as expected.

    Attributes:
        checked: The number of expected answers.
        missing: The answers that the cache does not have.
        drifted: The answers that the cache has otherwise.
    """

    checked: int
    missing: tuple[GoldenAnswer, ...]
    drifted: tuple[GoldenAnswer, ...]

    def __bool__(self) -> bool:
        return not self.missing and not self.drifted

    def __str__(self) -> str:
        head = f"{self.checked} answers checked: {len(self.drifted)} drifted, {len(self.missing)} missing"
        missing = [f"line {answer.line} ({answer.tier}): missing" for answer in self.missing]
        return "\n".join([head, *map(str, self.drifted), *missing])


def read_golden(file: str | os.PathLike[str]) -> list[ExpectedAnswer]:
    """Return the expected answers in ``file``.

    Raises:
        UsageError: A line has another form; the message has its number and the reason.
        OSError: The file cannot be read.
    """
    if not isinstance(file, str | os.PathLike):
        raise UsageError(f"file must be the path of a golden file, not {type(file).__name__}")
    lines = Path(file).read_bytes().split(b"\n")
    return [_expected(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def are_equal(expected: Any, found: Any) -> bool:
    """Return whether two answers are the same JSON: 1 and True are not."""
    return canonical_json(expected, "the expected answer") == canonical_json(found, "the answer")


def _expected(number: int, line: bytes) -> ExpectedAnswer:
    try:
        fields = json.loads(line)
    # Not UTF-8, not JSON, or nested too deeply.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {number} of the golden file is not JSON: {error}") from error
    tier = fields.get("tier") if isinstance(fields, dict) else None
    if not isinstance(tier, str) or tier not in _FIELDS:
        raise UsageError(f"line {number} of the golden file must be an object with the tier llm or tool")
    names = set(fields) - {"tier"}
    if wrong := names - _FIELDS[tier] - _OPTIONAL or _FIELDS[tier] - _OPTIONAL - names:
        forms = " and ".join(sorted(_FIELDS[tier]))
        raise UsageError(f"line {number} of the golden file must have {forms}; these are wrong: {sorted(wrong)}")
    if tier == "llm" and not isinstance(fields["response"], str | list):
        raise UsageError(f"line {number} of the golden file must have a text or a list of blocks as response")
    # A text with half of a surrogate pair is JSON for Python, and no answer can have it.
    canonical_json(fields, f"line {number} of the golden file")
    return ExpectedAnswer(number, "llm" if tier == "llm" else "tool", fields)
