"""From a tool's name and arguments to the key ``{name}:tool:{tool}:{sha256 hex}``.

Hashed is the canonical JSON of the arguments (of ``{}`` for None). The tool's name stands in the key as it is, and so
may hold no ``:``.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from ...engine.entries.policy import TierPolicy
from ...engine.memory.l1 import L1
from ...errors import UsageError
from ..keys.canonical_json import agreed_json, canonical_json, compact_json
from ..keys.fingerprint import fingerprint, is_json, may_remember, said_by, to_keep
from ..keys.key import PREPARED_BYTES, ToolKey, check_owner
from ..keys.known_keys import Aliases

__all__ = ["ABSENT", "ToolKeys", "check_tool", "shifted"]


class _Absent:
    """Type of ``ABSENT``."""


# An argument that was not given: None is one that can be.
ABSENT: Final = _Absent()


class ToolKeys:
    """The keys of one cache's tool calls, worked out where they are not known; as many as ``l1`` allows."""

    def __init__(self, prefix: str, policy: TierPolicy, l1: L1) -> None:
        self._prefix = prefix
        self._policy = policy
        self._aliases: Aliases[ToolKey] = Aliases(
            max_entries=2 * l1.max_entries,
            max_bytes=l1.max_bytes // 4,
            size_of=lambda key: PREPARED_BYTES + len(key._args),
        )

    def of(self, tool: Any, args: Any) -> ToolKey:
        """Return the key of a call, or a key itself, where ``args`` are ``ABSENT``.

        Raises:
            UsageError: ``tool`` is no name, ``args`` are not JSON, or a key is another cache's.
        """
        if type(tool) is ToolKey:
            if args is not ABSENT:
                raise UsageError("args must not be given with a key, which has those of its call")
            check_owner(tool, self._policy)
            return tool
        if args is ABSENT:
            raise UsageError("args must be given: a mapping of keyword arguments, None for none")
        mark = fingerprint(args) if type(tool) is str else None
        if mark is not None:
            prepared = self._aliases.get((tool, mark))
            if prepared is not None:
                return prepared
        check_tool(tool)
        said = said_by(mark)
        if said is not None:
            data = agreed_json(said)
            if data is not None:
                kept = to_keep(mark)
                # Of flat args the account is the JSON itself.
                text = kept if isinstance(kept, bytes) and is_json(kept) else compact_json(said, "args")
                prepared = self._prepare(tool, data, text)
                self._aliases.put((tool, kept), prepared)
                return prepared
        data = canonical_json({} if args is None else args, "args")
        prepared = self._prepare(tool, data, compact_json(args, "args"))
        if mark is not None and may_remember(args, mark):
            self._aliases.put((tool, mark), prepared)
        return prepared

    def _prepare(self, tool: Any, canonical: bytes, text: bytes) -> ToolKey:
        tool = str.__str__(tool)  # Of a subclass, what it is and not what it says it is.
        return ToolKey(
            key=f"{self._prefix}{tool}:{sha256(canonical).hexdigest()}",
            tool=tool,
            _args=text,
            _policy=self._policy,
            _counters=self._policy.counters.of(tool),
        )


def shifted(tool: object, args: Any, last: Any, name: str) -> tuple[Any, Any]:
    """Return the args and what comes after them; where a key stands for tool and args, it comes in their place."""
    if type(tool) is ToolKey and last is ABSENT:
        return ABSENT, args
    if last is ABSENT:
        raise UsageError(f"{name} must be given after args")
    return args, last


def check_tool(tool: object) -> None:
    """Refuse what is no name of a tool.

    Raises:
        UsageError: It is empty, has a ``:``, or is no text.
    """
    if not isinstance(tool, str) or not tool or ":" in tool:
        raise UsageError(f"tool must be a name that is not empty and has no ':', not {tool!r}")
    try:
        tool.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"tool has text that is not Unicode (a lone surrogate): {error}") from error
