"""For tests of programs that use tiercache, and for its own: a network that misbehaves and a clock that obeys."""

from .clock import FakeClock
from .proxy import ChaosProxy

__all__ = ["ChaosProxy", "FakeClock"]
