"""The parts that both measurements share: CPU time without that of a fleet at rest, and the record of failures."""

import contextlib
import time
from collections.abc import Callable, Iterator

from benchmarks.process import CaseFailedError
from benchmarks.results import Case, Results


class BusyClock:
    """CPU seconds inside a ``with`` block, without those that the same processes use while the fleet rests.

    Each cache of a fleet sends some commands a second to stay trusted, and these are no part of a call.
    """

    def __init__(self, rest_seconds: float, *read: Callable[[], float]) -> None:
        """Measure the rest.

        Args:
            read: Functions that return CPU seconds so far.
        """
        self._read = read
        self._rest = [0.0] * len(read)
        with self:
            time.sleep(rest_seconds)
        self._rest = [seconds / rest_seconds for seconds in self.seconds]

    def __enter__(self) -> None:
        self._start, self._cpu = time.perf_counter(), [read() for read in self._read]

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._start
        used = [read() - before for read, before in zip(self._read, self._cpu, strict=True)]
        self.seconds = [each - rest * elapsed for each, rest in zip(used, self._rest, strict=True)]
        """The CPU seconds of the last block, for each of ``read``."""


@contextlib.contextmanager
def recorded(results: Results, *cases: Case) -> Iterator[None]:
    """Record the failure of the ``with`` block as the failure of the cases; later rounds leave them out."""
    try:
        yield
    except CaseFailedError as error:
        for case in cases:
            results.fail(case, str(error))
