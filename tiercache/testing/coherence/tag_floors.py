"""The floors of entries with tags: the invalidations of a tag that cover an entry.

An invalidation of a tag covers the entries that have the tag when it begins. For keys that some calls read without
a tag, this module finds these entries: an entry has a tag from the end of the first call that gave the tag and found
the entry. Two loads of one version make two entries, for example in an outage, or after the eviction of a lease.
"""

from __future__ import annotations

from collections import defaultdict

from .history import Change, History, Read, Sample

__all__ = ["TagFloors"]


class TagFloors:
    """The acknowledged invalidations of tags that cover only entries with the tag, and the moments of the tags.

    A restart that emptied Valkey also ends every tag: only a tag of the same life of Valkey counts.
    """

    def __init__(self, history: History) -> None:
        self._restarts = sorted((restart.began, restart.ended) for restart in history.restarts if restart.forgot)
        # By key, tag and life: the invalidations of the tag, with the moments of their acknowledgements.
        self._changes: defaultdict[tuple[str, str, int], list[tuple[float, Change]]] = defaultdict(list)
        for key, changes in history.changes.items():
            for change in changes:
                if change.tag is not None and change.acked is not None:
                    life = self._life(change.began, change.acked)
                    if life is not None:
                        self._changes[key, change.tag, life].append((change.acked, change))
        # By key, version and entry: the first moment of each tag in each life.
        self._tagged_at: defaultdict[tuple[str, int, int], dict[tuple[str, int], float]] = defaultdict(dict)
        for read in history.reads:
            life = None if read.tag is None else self._life(read.began, read.ended)
            if life is not None and read.tag is not None and read.version is not None:
                moments = self._tagged_at[read.key, read.version, read.entry]
                moments[read.tag, life] = min(read.ended, moments.get((read.tag, life), read.ended))

    def covering(self, seen: Read | Sample, before: float, *, replica: str | None = None) -> Change | None:
        """Return an invalidation, acknowledged before ``before``, that removed the entry that was seen, or None.

        Args:
            replica: The replica that made the invalidation; None means any.
        """
        version = seen.version
        if version is None:
            return None
        for (tag, life), tagged_at in self._tagged_at.get((seen.key, version, seen.entry), {}).items():
            for acked, change in self._changes[seen.key, tag, life]:
                is_covering = change.version > version and tagged_at < change.began and acked < before
                if is_covering and replica in (None, change.replica):
                    return change
        return None

    def _life(self, began: float, ended: float) -> int | None:
        """Return the number of the life of Valkey that has the whole call, or None if a restart overlaps the call."""
        count = 0
        for restart_began, restart_ended in self._restarts:
            if restart_ended <= began:
                count += 1
            elif restart_began < ended:
                return None
        return count
