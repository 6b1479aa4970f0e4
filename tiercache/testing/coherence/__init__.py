"""The coherence checker: random histories of several replicas on a few hot keys, checked read by read.

Replicas in this process and in other processes read, load, store and invalidate through a chaos proxy, under a fault.
The checks then compare the version of every read with the guarantees of the cache. See ``python -m
tiercache.testing.coherence --help``. The checker needs the ``embedded`` extra, because its servers are real.
"""

from .checks import Violation
from .faults import FAULTS
from .run import Outcome, RunSettings, run_once

__all__ = ["FAULTS", "Outcome", "RunSettings", "Violation", "run_once"]
