"""The tool key: from a tool's name and arguments to ``{name}:tool:{tool}:{sha256 hex}``.

The hash is over the canonical JSON of the arguments, or of ``{}`` for None. For a key with components, such as the
scope of a tenant, it is over that of a mapping with the components under their reserved names, and the arguments as
``args``. The tool's name stands in the key as it is, and so must not contain ``:``.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import sha256
from typing import Any, Final

from ...engine.entries.rules import TierRules
from ...engine.memory.l1 import L1
from ...errors import UsageError
from ...scopes import COMPONENT_NAMES, Components
from ...text import check_name, shown
from ..keys.absent import without_absent
from ..keys.canonical_json import canonical_json, compact_json
from ..keys.fingerprint import fingerprint
from ..keys.key import HANDLE_BYTES, ToolKey, check_owner
from ..keys.lookup import KeyLookup

__all__ = ["ABSENT", "ToolKeyLookup", "check_tool", "shifted"]


class _Absent:
    """Type of ``ABSENT``."""


# The default of an argument for which None is a value.
ABSENT: Final = _Absent()


class ToolKeyLookup(KeyLookup[ToolKey]):
    """The keys of one cache's tool calls: known keys, and new ones."""

    def __init__(self, prefix: str, rules: TierRules, l1: L1) -> None:
        super().__init__(l1, fingerprint, lambda key: HANDLE_BYTES + len(key._args))
        self._prefix = prefix
        self._rules = rules
        self._calls = rules.scopes.calls

    def of(self, tool: Any, args: Any) -> ToolKey:
        """Return the key of a call that is made now, or a key itself if ``tool`` is a key and ``args`` is ``ABSENT``.

        Raises:
            UsageError: ``tool`` is no name, ``args`` are not JSON, or the key is of another cache; or from a scope
                function.
        """
        if type(tool) is str and not self._calls.is_used:
            args_fingerprint = fingerprint(args)
            return self.known.find((tool, args_fingerprint)) or self._new(tool, args, args_fingerprint)
        # A key has components of its own.
        return self.within(tool, args, () if type(tool) is ToolKey else self._rules.scopes.components())

    def within(self, tool: Any, args: Any, components: Components) -> ToolKey:
        """Return the key of a call with ``components``, or a key itself. Errors as for ``of``."""
        if type(tool) is str:
            args_fingerprint = fingerprint(args)
            # Without the components, the key of an equal call of another scope would be found.
            known = self.known.find(((tool, components) if components else tool, args_fingerprint))
            return known or self._new(tool, args, args_fingerprint, components)
        if type(tool) is ToolKey:
            if args is not ABSENT:
                raise UsageError("args must not be given with a key, which has the args of its call")
            check_owner(tool, self._rules)
            return tool
        return self._new(tool, args, None, components)

    def _new(self, tool: Any, args: Any, args_fingerprint: Hashable | None, components: Components = ()) -> ToolKey:
        if args is ABSENT:
            raise UsageError("args must be given: a mapping of keyword arguments, or None for a call without arguments")
        check_tool(tool)
        name = str.__str__(tool)  # Of a str subclass, its text: its own __str__ may return other text.

        def make(args: Any, is_exact: bool) -> ToolKey:
            try:
                hashed = _hashed(args, components, is_exact=is_exact)
            except UsageError:
                given = without_absent(args)
                if given is args:
                    raise
                args = given
                hashed = _hashed(args, components)
            return ToolKey(
                key=f"{self._prefix}{name}:{sha256(hashed).hexdigest()}",
                tool=name,
                _args=compact_json(args, "args", is_exact=is_exact),
                _rules=self._rules,
                _counters=self._rules.counters.of(name),
                _components=components,
            )

        return self.make(args, args_fingerprint, make, (name, components) if components else name)


def _hashed(args: Any, components: Components, *, is_exact: bool = False) -> bytes:
    """Return the JSON that the hash of a key is over.

    Raises:
        UsageError: ``args`` are not JSON, or could be taken for those of a call with components.
    """
    args = {} if args is None else args
    if isinstance(args, dict) and not COMPONENT_NAMES.isdisjoint(args):
        raise UsageError(f"args has a reserved name: {', '.join(sorted(COMPONENT_NAMES.intersection(args)))}")
    if components:
        return canonical_json({**dict(components), "args": args}, "args", is_exact=is_exact, given=args)
    return canonical_json(args, "args", is_exact=is_exact)


def shifted(tool: object, args: Any, last: Any, name: str) -> tuple[Any, Any]:
    """Return the args of a call and its last argument, which is a loader or a response.

    A call with a key as ``tool`` has no args: its last argument is in ``args``, and the args returned are ``ABSENT``.

    Args:
        name: The name of the last argument in an error.

    Raises:
        UsageError: The last argument is missing.
    """
    if type(tool) is ToolKey and last is ABSENT:
        return ABSENT, args
    if last is ABSENT:
        raise UsageError(f"{name} must be given after args")
    return args, last


def check_tool(tool: object) -> None:
    """Refuse a tool name that a key cannot contain.

    Raises:
        UsageError: ``tool`` is not a str, is empty, contains ``:``, is not Unicode, or is too long.
    """
    if not isinstance(tool, str) or not tool or ":" in tool:
        raise UsageError(f"tool must be a name that is not empty and has no ':', not {shown(tool)}")
    check_name(tool, "tool")
