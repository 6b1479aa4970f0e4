"""The works: the kinds of calls that are timed. To add a work, write a subclass of `Work`, and add an instance here."""

from benchmarks.works.groups import DestroyThread, DropFromL1, InvalidateModel, InvalidateTool, SessionAll
from benchmarks.works.growth import Entries, Length, Memory, Pipeline
from benchmarks.works.invalidation import Invalidation
from benchmarks.works.lookups import DecoratedHit, GatherChecks, L1Hit, L2Hit, PreparedHit
from benchmarks.works.stampede import Stampede, StampedeProcesses
from benchmarks.works.stores import MissLoad, MissStore, StoreBatch
from benchmarks.works.tiers import GetMany, SessionGet, ToolCheck
from benchmarks.works.work import Bench, Variant, Work, WrongAnswerError
from benchmarks.works.wrapped import WrappedFirstPart, WrappedFollow, WrappedHit, WrappedTogether

__all__ = ["WORKS", "Bench", "Variant", "Work", "WrongAnswerError"]

WORKS: dict[str, Work] = {  # in the order of the tables
    work.name: work
    for work in (
        L1Hit(),
        PreparedHit(),
        DecoratedHit(),
        L2Hit(),
        Pipeline(),
        MissStore(),
        MissLoad(),
        StoreBatch(),
        Stampede(),
        StampedeProcesses(),
        ToolCheck(),
        SessionGet(),
        GetMany(),
        GatherChecks(),
        InvalidateTool(),
        InvalidateModel(),
        DropFromL1(),
        SessionAll(),
        DestroyThread(),
        Invalidation(),
        Memory(),
        Entries(),
        Length(),
        WrappedHit(),
        WrappedFirstPart(),
        WrappedFollow(),
        WrappedTogether(),
    )
}
