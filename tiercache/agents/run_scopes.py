"""The components of keys of entries that belong to one run of an agent."""

from __future__ import annotations

from collections.abc import Sequence

from ..log import CacheLog
from ..scopes import RUN, Components, KeyScopes
from .run import run_of_entry

__all__ = ["RunScopes", "components_in_run", "tags_in_run"]


class RunScopes(KeyScopes):
    """The components of the keys of a function whose entries belong to the present run: the scope, and the run.

    Args:
        scopes: The components of a function whose entries are shared.
        log: The log of the cache.
    """

    __slots__ = ("_log",)

    def __init__(self, scopes: KeyScopes, log: CacheLog) -> None:
        super().__init__(scopes.calls, scopes.own)
        self.calls.is_used = True
        self._log = log

    def find(self) -> Components:
        """Return the components, as ``KeyScopes.find``. Raises UsageError outside of a run too."""
        return components_in_run(super().find(), self._log)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag of the present run, by which its end removes the entries."""
        return tuple(tags_in_run((), self._log))


def components_in_run(components: Components, log: CacheLog) -> Components:
    """Return ``components`` and the session id of the present run. Errors as for ``run_of_entry``."""
    return (*components, (RUN, run_of_entry(log).session_id))


def tags_in_run(tags: Sequence[str], log: CacheLog) -> Sequence[str]:
    """Return ``tags`` and the tag of the present run. A str stays as it is, and is refused as outside of a run."""
    return tags if isinstance(tags, str) else (*tags, run_of_entry(log)._tag)
