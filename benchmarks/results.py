"""The results of a run: values by case and round, ratios between peers, and the file that stores both.

The file is a pyperf suite (``python -m pyperf stats FILE``): one benchmark for each case, one run for each round. A
second benchmark of each case, ``.../cpu``, has the CPU time of the client, and a third, ``.../server``, has the CPU
time of the server, where the case measures it. A ratio is the median, over the rounds, of
the quotient of two medians of the same round, whose values were taken within seconds of each other. The range of a
ratio is the lowest and the highest of these quotients.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.timing import Measured
from benchmarks.works import WORKS

SUBJECT = "tiercache"
_CPU_CLOCKS = ("cpu", "server")
_SAME_KEYS = ("cpu_model_name", "cpu_count", "python_implementation", "python_version", "loop", "pinned", "versions")
"""Facts about the machine that must be equal in all runs that are pooled."""
_MACHINE_KEYS = ("cpu_model_name", "cpu_count", "platform", "python_version", "python_implementation")


@dataclass(frozen=True)
class Case:
    """One peer doing one variant of a work."""

    work: str
    variant: str
    peer: str

    @property
    def name(self) -> str:
        return f"{self.work}/{self.variant}/{self.peer}"


@dataclass(frozen=True)
class Ratio:
    """A quotient of two cases: the median over the rounds, the lowest and the highest."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, by_round: Iterable[float]) -> "Ratio":
        values = list(by_round)
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All rounds of one run, or of several pooled runs."""

    machine: dict[str, str] = field(default_factory=dict)
    rounds: dict[Case, list[Measured]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that were not measured, with the reason."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cases in which the peer was wrong, by name, with the reason."""

    def add(self, measured: dict[str, Measured], case: Case, number: int | None = None) -> None:
        """Add the values of round ``number`` of ``case`` (default: the next), for each peer in ``measured``."""
        for peer, each in measured.items():
            kept = self.rounds.setdefault(Case(case.work, case.variant, peer), [])
            each.round = len(kept) if number is None else number
            kept.append(each)

    def fail(self, case: Case, reason: str) -> None:
        """Remove the case and record ``reason``: times of wrong answers mean nothing."""
        self.failed[case.name] = reason
        self.rounds.pop(case, None)

    def median(self, case: Case, clock: str = "wall") -> float | None:
        """Return the median of all values of all rounds, in seconds or bytes, or None if there are none.

        Args:
            clock: "wall", "cpu" for the CPU time of the clients, or "server" for that of the server.
        """
        values = [value for each in self.rounds.get(case, ()) for value in getattr(each, clock)]
        return statistics.median(values) if values else None

    def note(self, case: Case, name: str) -> float | None:
        """Return the highest value of the note ``name`` in any round."""
        return max((each.notes[name] for each in self.rounds.get(case, ()) if name in each.notes), default=None)

    def ratio(self, slower: Case, faster: Case, clock: str = "wall") -> Ratio | None:
        """Return how many times as long ``slower`` takes as ``faster``, or None unless a round has both."""
        theirs, ours = ({each.round: each for each in self.rounds.get(case, ())} for case in (slower, faster))
        pairs = [(getattr(theirs[number], clock), getattr(ours[number], clock)) for number in theirs if number in ours]
        quotients = [statistics.median(one) / statistics.median(other) for one, other in pairs if one and other]
        return Ratio.of(quotients) if quotients else None

    def speed(self, work: str, variant: str, peer: str, clock: str = "wall") -> Ratio | None:
        """Return how many times as fast as ``peer`` tiercache is, by ``clock``."""
        return self.ratio(Case(work, variant, peer), Case(work, variant, SUBJECT), clock)

    @property
    def round_count(self) -> int:
        """The number of rounds; the last may be incomplete."""
        return 1 + max((each.round for rounds in self.rounds.values() for each in rounds), default=-1)

    def peers(self, work: str, variant: str) -> list[str]:
        return [case.peer for case in self.rounds if (case.work, case.variant) == (work, variant)]

    def save(self, path: Path) -> None:
        """Write the pyperf suite, without data that identifies the owner of the machine."""
        import pyperf

        benchmarks = []
        for case, rounds in self.rounds.items():
            unit = WORKS[case.work].unit if case.work in WORKS else "second"
            parts = {case.name: ("wall", unit)} | {f"{case.name}/{clock}": (clock, "second") for clock in _CPU_CLOCKS}
            for name, (clock, its_unit) in parts.items():
                if any(getattr(each, clock) for each in rounds):
                    runs = [_run(name, getattr(each, clock), each, its_unit) for each in rounds]
                    benchmarks.append(pyperf.Benchmark(runs))
        if not benchmarks:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        pyperf.BenchmarkSuite(benchmarks).dump(str(new), replace=True)
        data = json.loads(new.read_text())
        data["tiercache"] = {"machine": self.machine, "missing": self.missing, "failed": self.failed}
        new.write_text(json.dumps(data, separators=(",", ":"), sort_keys=True) + "\n")
        new.replace(path)  # An interrupted save leaves the file of the round before.

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file that `save` has written."""
        data = json.loads(path.read_text())
        results = cls(**data["tiercache"])
        common = data.get("metadata", {})
        for bench in data["benchmarks"]:
            name = (common | bench.get("metadata", {}) | bench["runs"][0].get("metadata", {}))["name"]
            work, variant, peer, *clock = name.split("/")
            kept = results.rounds.setdefault(Case(work, variant, peer), [])
            for number, run in enumerate(bench["runs"]):
                if number == len(kept):
                    kept.append(Measured(round=number))
                setattr(kept[number], clock[0] if clock else "wall", run["values"])
                metadata = common | bench.get("metadata", {}) | run.get("metadata", {})
                kept[number].loops = metadata.get("case_loops", 0)
                kept[number].round = metadata.get("case_round", number)
                notes = {key[5:]: value for key, value in metadata.items() if key.startswith("note_")}
                kept[number].notes = {key: float(value) for key, value in notes.items()}
        return results

    @classmethod
    def pooled(cls, runs: list["Results"]) -> "Results":
        """Return the rounds of several runs as one. A case that failed in one run is left out of all.

        Raises:
            ValueError: The runs have different machines, interpreters or versions.
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
    """Return facts about this machine and interpreter from pyperf, and none about the owner."""
    import pyperf

    metadata = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return {key: str(metadata[key]) for key in _MACHINE_KEYS if key in metadata}


def versions(server: str, packages: Iterable[str]) -> str:
    """Return the version of the server and of each package."""
    return ", ".join([f"Valkey {server}", *map(_version, packages)])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"
