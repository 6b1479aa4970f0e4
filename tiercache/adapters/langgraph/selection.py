"""The checkpoints that a call means: configs, the selection of a list, and the checkpoints that a pruning keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ...errors import UsageError
from ...text import shown
from ...tiers.checkpoints.checkpoint import Place

__all__ = ["Config", "Pruning", "Selection", "check_strategy", "config_of", "names_of"]

# LangGraph's RunnableConfig: a dict.
Config: TypeAlias = Any

# In the metadata: the counters of delta channels, which have no value of their own in every checkpoint.
_COUNTERS: Final = "counters_since_delta_snapshot"


def names_of(config: Config) -> tuple[str, str, str | None]:
    """Return the thread, the namespace and the checkpoint id of a config.

    Raises:
        UsageError: The config names no thread.
    """
    named = config.get("configurable") if isinstance(config, Mapping) else None
    if not isinstance(named, Mapping) or named.get("thread_id") is None:
        raise UsageError("config must have a thread_id: {'configurable': {'thread_id': ...}}")
    return str(named["thread_id"]), named.get("checkpoint_ns") or "", named.get("checkpoint_id") or None


def config_of(thread: str, place: Place) -> Config:
    """Return the config that names a checkpoint."""
    return {"configurable": {"thread_id": thread, "checkpoint_ns": place.ns, "checkpoint_id": place.id}}


def check_strategy(strategy: object) -> None:
    """Refuse an unknown strategy of pruning.

    Raises:
        UsageError: ``strategy`` is neither "keep_latest" nor "delete".
    """
    if strategy not in ("keep_latest", "delete"):
        raise UsageError(f'strategy must be "keep_latest" or "delete", not {shown(strategy)}')


class Selection:
    """The checkpoints that a list yields.

    Args:
        config: Names the thread, and perhaps the namespace and the checkpoint. None: all threads.
        wanted: Values that the metadata must have.
        before: Only checkpoints with smaller ids than the one that this config names.
        limit: Most checkpoints.

    Attributes:
        threads: The threads, or none for all.
    """

    def __init__(
        self, config: Config | None, wanted: Mapping[str, Any] | None, before: Config | None, limit: int | None
    ) -> None:
        named = config["configurable"] if config else {}
        self.threads = (names_of(config)[0],) if config else ()
        self._ns: str | None = named.get("checkpoint_ns")
        self._id: str | None = named.get("checkpoint_id")
        self._before: str | None = before["configurable"].get("checkpoint_id") if before else None
        self._wanted = wanted or {}
        self._left = limit

    @property
    def is_done(self) -> bool:
        """Whether the list has as many checkpoints as it may have."""
        return self._left is not None and self._left <= 0

    def select(self, places: Sequence[Place]) -> Iterator[Place]:
        """Yield the places of the selection: by namespace, the latest first."""
        latest_first = sorted(places, key=lambda place: place.id, reverse=True)
        for place in sorted(latest_first, key=lambda place: place.ns):
            is_named = self._ns in (None, place.ns) and self._id in (None, "", place.id)
            if is_named and not (self._before and place.id >= self._before):
                yield place

    def takes(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this metadata belongs to the list, and count it."""
        if not all(metadata.get(name) == value for name, value in self._wanted.items()):
            return False
        if self._left is not None:
            self._left -= 1
        return True


class Pruning:
    """The walk over a thread that finds the checkpoints to keep.

    The latest checkpoint of each namespace stays. A delta channel has a value only in some checkpoints; it is made from
    such a checkpoint and the pending writes of all that follow. If the latest checkpoint has no value of a delta
    channel, the walk goes on to its parent.

    Args:
        places: All checkpoints of the thread, by namespace and then by id.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._kept: set[Place] = set()
        self._todo = list({place.ns: place for place in places}.values())
        self._missing: set[str] | None = None

    def next_place(self) -> Place | None:
        """Return the next checkpoint to visit, or None if the walk is over."""
        return self._todo[-1] if self._todo else None

    def visit(self, found: Any) -> None:
        """Keep the checkpoint at ``next_place``; ``found`` is its tuple, or None if it is gone."""
        place = self._todo.pop()
        self._kept.add(place)
        values = {} if found is None else found.checkpoint["channel_values"]
        if self._missing is None:
            self._missing = set() if found is None else set(found.metadata.get(_COUNTERS) or ())
        self._missing -= values.keys()
        parent = None if found is None else found.parent_config
        if self._missing and parent is not None:
            self._todo.append(Place(place.ns, parent["configurable"]["checkpoint_id"]))
        else:
            self._missing = None

    @property
    def removed(self) -> list[Place]:
        """The checkpoints that no kept checkpoint needs."""
        return [place for place in self._places if place not in self._kept]
