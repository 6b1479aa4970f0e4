"""The arguments of a decorated function: calls of all spellings, bound to the names of the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..errors import UsageError
from ..text import shown

__all__ = ["Signature"]

_INSTANCE_NAMES: Final = ("self", "cls", "mcs")


class Signature:
    """The parameters of a function, and those of them that belong to a key.

    Args:
        function: The function.
        ignore: Names of parameters that do not belong to a key.
        spreads: Whether ``bind`` returns the members of ``**kwargs`` beside the other arguments.

    Attributes:
        names: The names of the parameters that belong to a key, in their order. The first parameter of a method, named
            ``self`` or ``cls``, does not.
        is_method: Whether the first parameter is ``self`` or ``cls``.

    Raises:
        UsageError: ``ignore`` has a name that is no parameter, or the function has no signature.
    """

    def __init__(self, function: Callable[..., Any], ignore: Sequence[str], *, spreads: bool) -> None:
        if isinstance(ignore, str) or not isinstance(ignore, Iterable):
            raise UsageError(f"ignore must be names of parameters, not {shown(ignore)}")
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{shown(function)} has no signature that Python can read: {error}") from error
        all_names = list(self._signature.parameters)
        self.is_method = bool(all_names) and all_names[0] in _INSTANCE_NAMES
        own = all_names[1:] if self.is_method else all_names
        for name in ignore:
            if name not in own:
                raise UsageError(f"ignore has {shown(name)}, and the parameters are: {', '.join(own) or 'none'}")
        self._skipped = frozenset(all_names) - frozenset(own) | frozenset(ignore)
        self.names: tuple[str, ...] = tuple(name for name in own if name not in self._skipped)
        variadic = [name for name, each in self._signature.parameters.items() if each.kind is each.VAR_KEYWORD]
        self._spread = variadic[0] if variadic and spreads else None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the names of their parameters, with defaults, and without ignored ones.

        Raises:
            TypeError: The function cannot be called in this way.
            UsageError: ``**kwargs`` has a member with the name of a parameter, and is spread.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = {name: value for name, value in bound.arguments.items() if name not in self._skipped}
        if self._spread not in found:
            return found
        members = found.pop(self._spread)
        for name in members:
            if name in bound.arguments:
                raise UsageError(f"the argument {name!r} comes twice: by position and by name")
        return {**found, **{name: value for name, value in members.items() if name not in self._skipped}}
