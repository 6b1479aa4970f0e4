"""What was measured: values by case and round, the ratios between peers, and the file that keeps them.

The file is a pyperf suite (``python -m pyperf stats FILE``): a benchmark a case, a run a round, and beside the seconds
a benchmark ``.../cpu`` with the client's CPU time. A ratio is the median, over the rounds, of the quotient of two
medians of the same round, whose values were taken within seconds of each other; its range is the lowest and the highest
of these.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.timing import Measured
from benchmarks.works import WORKS

SUBJECT = "tiercache"
_CPU = "cpu"
_SAME_KEYS = ("cpu_model_name", "cpu_count", "python_implementation", "python_version", "loop", "pinned", "versions")
"""What runs that are taken together have in common."""
_MACHINE_KEYS = ("cpu_model_name", "cpu_count", "platform", "python_version", "python_implementation")


@dataclass(frozen=True)
class Case:
    """One peer at one variant of a work."""

    work: str
    variant: str
    peer: str

    @property
    def name(self) -> str:
        return f"{self.work}/{self.variant}/{self.peer}"


@dataclass(frozen=True)
class Ratio:
    """How many times one is the other: the median over the rounds, the lowest and the highest."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, by_round: Iterable[float]) -> "Ratio":
        values = list(by_round)
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All rounds of one run, or of several taken together."""

    machine: dict[str, str] = field(default_factory=dict)
    rounds: dict[Case, list[Measured]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that were not measured, and why."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cases in which the peer was wrong, by name, and how."""

    def add(self, measured: dict[str, Measured], case: Case, number: int | None = None) -> None:
        """Keep round ``number`` (the next) of ``case``, and what was measured along with it for other peers."""
        for peer, each in measured.items():
            kept = self.rounds.setdefault(Case(case.work, case.variant, peer), [])
            each.round = len(kept) if number is None else number
            kept.append(each)

    def fail(self, case: Case, reason: str) -> None:
        """Leave the case out: a figure of wrong answers is none."""
        self.failed[case.name] = reason
        self.rounds.pop(case, None)

    def median(self, case: Case, what: str = "wall") -> float | None:
        """The median of all values of all rounds: seconds or bytes; None if there are none."""
        values = [value for each in self.rounds.get(case, ()) for value in getattr(each, what)]
        return statistics.median(values) if values else None

    def note(self, case: Case, name: str) -> float | None:
        """The highest that was noted in any round."""
        return max((each.notes[name] for each in self.rounds.get(case, ()) if name in each.notes), default=None)

    def ratio(self, slower: Case, faster: Case, what: str = "wall") -> Ratio | None:
        """How many times as long ``slower`` takes as ``faster``; None unless a round has both."""
        theirs, ours = ({each.round: each for each in self.rounds.get(case, ())} for case in (slower, faster))
        pairs = [(getattr(theirs[number], what), getattr(ours[number], what)) for number in theirs if number in ours]
        quotients = [statistics.median(one) / statistics.median(other) for one, other in pairs if one and other]
        return Ratio.of(quotients) if quotients else None

    def speed(self, work: str, variant: str, peer: str, what: str = "wall") -> Ratio | None:
        """How many times as fast as ``peer`` tiercache is; or with how many times less CPU time of the client."""
        return self.ratio(Case(work, variant, peer), Case(work, variant, SUBJECT), what)

    @property
    def round_count(self) -> int:
        """How many rounds it has, the last perhaps in part."""
        return 1 + max((each.round for rounds in self.rounds.values() for each in rounds), default=-1)

    def peers(self, work: str, variant: str) -> list[str]:
        return [case.peer for case in self.rounds if (case.work, case.variant) == (work, variant)]

    def save(self, path: Path) -> None:
        """Write the pyperf suite, without what identifies the machine's owner."""
        import pyperf

        benchmarks = []
        for case, rounds in self.rounds.items():
            unit = WORKS[case.work].unit
            parts = {case.name: ("wall", unit), f"{case.name}/{_CPU}": (_CPU, "second")}
            for name, (what, its_unit) in parts.items():
                if any(getattr(each, what) for each in rounds):
                    runs = [_run(name, getattr(each, what), each, its_unit) for each in rounds]
                    benchmarks.append(pyperf.Benchmark(runs))
        if not benchmarks:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        pyperf.BenchmarkSuite(benchmarks).dump(str(new), replace=True)
        data = json.loads(new.read_text())
        data["tiercache"] = {"machine": self.machine, "missing": self.missing, "failed": self.failed}
        new.write_text(json.dumps(data, separators=(",", ":"), sort_keys=True) + "\n")
        new.replace(path)  # Whoever stops this leaves the file of the round before.

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` has written."""
        data = json.loads(path.read_text())
        results = cls(**data["tiercache"])
        common = data.get("metadata", {})
        for bench in data["benchmarks"]:
            name = (common | bench.get("metadata", {}) | bench["runs"][0].get("metadata", {}))["name"]
            work, variant, peer, *what = name.split("/")
            kept = results.rounds.setdefault(Case(work, variant, peer), [])
            for number, run in enumerate(bench["runs"]):
                if number == len(kept):
                    kept.append(Measured(round=number))
                setattr(kept[number], what[0] if what else "wall", run["values"])
                metadata = common | bench.get("metadata", {}) | run.get("metadata", {})
                kept[number].loops = metadata.get("case_loops", 0)
                kept[number].round = metadata.get("case_round", number)
                notes = {key[5:]: value for key, value in metadata.items() if key.startswith("note_")}
                kept[number].notes = {key: float(value) for key, value in notes.items()}
        return results

    @classmethod
    def pooled(cls, runs: list["Results"]) -> "Results":
        """The rounds of several runs together. What failed in one of them is left out of all.

        Raises:
            ValueError: They were made on different machines, interpreters or versions.
        """
        first, *others = runs
        for name in _SAME_KEYS:
            if any(run.machine.get(name) != first.machine.get(name) for run in others):
                raise ValueError(f"these runs have different figures of {name}: they cannot be taken together")
        if not others:
            return first
        pooled = cls(dict(first.machine))
        before = 0
        for run in runs:
            for case, rounds in run.rounds.items():
                moved = [replace(each, round=before + each.round) for each in rounds]
                pooled.rounds.setdefault(case, []).extend(moved)
            before += run.round_count
            pooled.missing |= run.missing
            pooled.failed |= run.failed
        measured = {case.peer for case in pooled.rounds}
        pooled.missing = {name: reason for name, reason in pooled.missing.items() if name not in measured}
        pooled.rounds = {case: rounds for case, rounds in pooled.rounds.items() if case.name not in pooled.failed}
        dates = sorted({run.machine.get("date", "") for run in runs})
        stopped = sum(int(run.machine.get("stopped", 0)) for run in runs)
        pooled.machine |= {
            "runs": str(sum(int(run.machine.get("runs", 1)) for run in runs)),
            "rounds": str(before),
            "date": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
            "stopped": str(stopped),
        }
        return pooled


def _run(name: str, values: list[float], measured: Measured, unit: str) -> Any:
    import pyperf

    notes = {f"note_{key}": value for key, value in measured.notes.items()}
    metadata = {"name": name, "unit": unit, "case_loops": measured.loops, "case_round": measured.round, **notes}
    return pyperf.Run(values, metadata=metadata, collect_metadata=False)


def machine() -> dict[str, str]:
    """This machine and interpreter, by pyperf; nothing that tells whose they are."""
    import pyperf

    metadata = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return {key: str(metadata[key]) for key in _MACHINE_KEYS if key in metadata}
