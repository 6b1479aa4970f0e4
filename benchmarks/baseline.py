"""A stored run to compare with: ratios only, because only they mean something on another day or machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.goals import FLOOR, HANDMADE, RIVAL, goals
from benchmarks.results import Results

DROP = 0.25
"""The part of a ratio by which it may be lower than before: these machines are noisy."""
_PEERS = (RIVAL, HANDMADE, FLOOR)


@dataclass(frozen=True)
class Comparison:
    """How the ratios of a run stand beside the stored ones."""

    dropped: dict[str, tuple[float, float]]
    """Before and now, of those that dropped by more than `DROP`."""
    missing: tuple[str, ...]
    """Those that are stored and were not measured."""
    compared: int

    def passes(self, *, complete: bool) -> bool:
        """Whether nothing dropped; a ``complete`` run must also have every stored row."""
        return not self.dropped and self.compared > 0 and not (complete and self.missing)

    def report(self, *, complete: bool = True) -> str:
        """The rows by name; those that are missing only in a ``complete`` run."""
        lines = [f"DROPPED  {name}: {before:.3g} -> {now:.3g}" for name, (before, now) in self.dropped.items()]
        lines += [f"missing  {name}" for name in self.missing if complete]
        return "\n".join([*lines, f"{self.compared} ratios compared, {len(self.dropped)} dropped by over {DROP:.0%}"])


def ratios(results: Results) -> dict[str, float]:
    """What is stored of a run, by name: the higher the better."""
    found = {
        f"{work}/{variant} as fast as {peer}": ratio.value
        for work, variant in dict.fromkeys((case.work, case.variant) for case in results.rounds)
        for peer in _PEERS
        if (ratio := results.speed(work, variant, peer)) is not None
    }
    # Of a limit from above the inverse, so that here too less is worse.
    found |= {f"{goal.title}, {goal.against}": 1 / goal.figure.value for goal in goals(results) if goal.is_most}
    return found


def compare(before: dict[str, float], now: dict[str, float]) -> Comparison:
    """Compare the ratios that both have."""
    both = [name for name in before if name in now]
    dropped = {name: (before[name], now[name]) for name in both if now[name] < before[name] * (1 - DROP)}
    return Comparison(dropped, tuple(name for name in before if name not in now), len(both))


def save(results: Results, path: Path) -> None:
    """Write the ratios of a run, with its date, kind of machine and versions."""
    rounded = {name: float(f"{value:.4g}") for name, value in ratios(results).items()}
    path.write_text(json.dumps({"machine": results.machine, "ratios": rounded}, indent=1, sort_keys=True) + "\n")


def load(path: Path) -> dict[str, float]:
    """The stored ratios by name."""
    stored: dict[str, float] = json.loads(path.read_text())["ratios"]
    return stored
