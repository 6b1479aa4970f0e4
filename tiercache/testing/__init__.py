"""Test tools, for programs that use tiercache and for tiercache itself: a chaos proxy and a fake clock."""

from .clock import FakeClock
from .proxy.chaos_proxy import ChaosProxy

__all__ = ["ChaosProxy", "FakeClock"]
