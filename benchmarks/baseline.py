"""The baseline: the ratios of a stored run, which a later run is compared with.

Only ratios are stored, because times of another day or machine cannot be compared.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.goals import FLOOR, HANDMADE, RIVAL, goals
from benchmarks.results import Results

DROP = 0.25
"""Fraction by which a ratio may be lower than the stored one: the measuring machines are noisy."""
_PEERS = (RIVAL, HANDMADE, FLOOR)


@dataclass(frozen=True)
class Comparison:
    """The ratios of a run compared with the stored ones."""

    dropped: dict[str, tuple[float, float]]
    """Stored and new value of each ratio that dropped by more than `DROP`, by name."""
    missing: tuple[str, ...]
    """Names of stored ratios that the run did not measure."""
    compared: int
    """How many ratios both have."""

    def passes(self, *, complete: bool) -> bool:
        """Return whether no ratio dropped; a ``complete`` run must also have every stored ratio."""
        return not self.dropped and self.compared > 0 and not (complete and self.missing)

    def report(self, *, complete: bool = True) -> str:
        """Return one line for each dropped ratio, and for a ``complete`` run one for each missing ratio."""
        lines = [f"DROPPED  {name}: {before:.3g} -> {now:.3g}" for name, (before, now) in self.dropped.items()]
        lines += [f"missing  {name}" for name in self.missing if complete]
        return "\n".join([*lines, f"{self.compared} ratios compared, {len(self.dropped)} dropped by over {DROP:.0%}"])


def ratios(results: Results) -> dict[str, float]:
    """Return the ratios of a run that a baseline stores, by name. Higher is better."""
    found = {
        f"{work}/{variant} as fast as {peer}": ratio.value
        for work, variant in dict.fromkeys((case.work, case.variant) for case in results.rounds)
        for peer in _PEERS
        if (ratio := results.speed(work, variant, peer)) is not None
    }
    # For a goal with an upper limit the inverse, so that lower is worse here too.
    found |= {f"{goal.title}, {goal.against}": 1 / goal.figure.value for goal in goals(results) if goal.is_most}
    return found


def compare(before: dict[str, float], now: dict[str, float]) -> Comparison:
    """Compare the ratios that both runs have."""
    both = [name for name in before if name in now]
    dropped = {name: (before[name], now[name]) for name in both if now[name] < before[name] * (1 - DROP)}
    return Comparison(dropped, tuple(name for name in before if name not in now), len(both))


def save(results: Results, path: Path) -> None:
    """Write the ratios of a run to ``path``, with the date, the kind of machine and the versions."""
    rounded = {name: float(f"{value:.4g}") for name, value in ratios(results).items()}
    path.write_text(json.dumps({"machine": results.machine, "ratios": rounded}, indent=1, sort_keys=True) + "\n")


def load(path: Path) -> dict[str, float]:
    """Read the stored ratios, by name."""
    stored: dict[str, float] = json.loads(path.read_text())["ratios"]
    return stored
