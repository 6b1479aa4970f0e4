"""The coherence checker: randomized histories of several replicas on a few hot keys, checked read by read.

Replicas in this process and in others read, load, store and invalidate through a chaos proxy, while something goes
wrong. Every version that a read returned is then held against what the cache promises. See ``python -m
tiercache.testing.coherence --help``. Needs the ``embedded`` extra: the servers are real.
"""

from .checks import Violation
from .faults import FAULTS
from .run import Outcome, RunSettings, run_once

__all__ = ["FAULTS", "Outcome", "RunSettings", "Violation", "run_once"]
