"""The report of runs for people: a line for each run, a table, and the history of each violation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .checks import KINDS, Violation
from .history import Change, Failure, History, Load, Read, Sample
from .run import Outcome

__all__ = ["stories_of", "story_of", "summary_of", "title_of"]

_BEFORE = 0.05
_MAX_LINES = 60
_MAX_TITLES = 50


def title_of(outcome: Outcome) -> str:
    """Return the line that describes a run."""
    history, settings = outcome.history, outcome.settings
    low, high = outcome.latency
    kinds = [violation.kind for violation in outcome.violations]
    shown = ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)
    return (
        f"seed {settings.seed:<5} {settings.fault:<17} {low * 1000:g}-{high * 1000:g} ms  "
        f"reads {len(history.reads):>6}  loads {len(history.loads):>5}  "
        f"changes {history.change_count:>5} ({history.unanswered_count} unanswered)  "
        f"violations {len(kinds)}" + (f" ({shown})" if shown else "")
    )


def summary_of(outcomes: Sequence[Outcome]) -> str:
    """Return a table with a line for each fault."""
    lines = [f"{'fault':<17} {'runs':>5} {'reads':>9} {'loads':>7} {'changes':>8} {'violations':>10}"]
    for fault in dict.fromkeys(outcome.settings.fault for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome.settings.fault == fault]
        reads = sum(len(run.history.reads) for run in runs)
        loads = sum(len(run.history.loads) for run in runs)
        changes = sum(run.history.change_count for run in runs)
        violations = sum(len(run.violations) for run in runs)
        lines.append(f"{fault:<17} {len(runs):>5} {reads:>9} {loads:>7} {changes:>8} {violations:>10}")
    return "\n".join(lines)


def stories_of(outcome: Outcome, most: int) -> str:
    """Return the violations of a run, a line each, and the command that repeats the run.

    Args:
        most: The number of violations, each of another kind or key, that are shown with their history.
    """
    firsts: dict[tuple[str, str], Violation] = {}
    for violation in outcome.violations:
        firsts.setdefault((violation.kind, violation.key), violation)
    shown = list(firsts.values())[:most]
    others = [violation for violation in outcome.violations if violation not in shown]
    stories = [story_of(violation, outcome.history, outcome.began) for violation in shown]
    titles = [_title(violation, outcome.began) for violation in others[:_MAX_TITLES]]
    if len(others) > len(titles):
        titles.append(f"... and {len(others) - len(titles)} more")
    return "\n\n".join(filter(None, [*stories, "\n".join(titles), f"again: {outcome.settings.command}"]))


def story_of(violation: Violation, history: History, start: float) -> str:
    """Return the violation and the events of its key that led to it, with moments in seconds since ``start``."""
    lines = list(_merged(_lines(violation, history)))
    shown = [f"{moment - start:9.4f}  {text}" for moment, text in lines]
    if len(shown) > _MAX_LINES:
        half = _MAX_LINES // 2
        shown = [*shown[:half], f"           ... {len(shown) - 2 * half} lines", *shown[-half:]]
    return "\n".join([_title(violation, start), *shown])


def _title(violation: Violation, start: float) -> str:
    return f"{violation.ended - start:9.4f}  {violation.kind}: {violation.key}: {violation.text}"


@dataclass(frozen=True, slots=True)
class _Line:
    """One event. Successive events of the same ``group`` share a line."""

    moment: float
    text: str
    group: str = ""


def _lines(violation: Violation, history: History) -> list[_Line]:
    """Return in order the events of the key around the violation, and the earlier events of its wrong version."""
    began, ended = violation.began - _BEFORE, violation.ended + _BEFORE
    lines: list[_Line] = []

    def add(event: Read | Change | Load | Sample, moment: float, text: str, group: str = "") -> None:
        if event.key == violation.key and (
            began <= moment <= ended or (event.version == violation.version and moment <= ended and not group)
        ):
            lines.append(_Line(moment, text, group))

    for read in history.reads:
        shown = f"{read.replica} reads {read.version} by {read.method}" + (
            f" from {read.source}" if read.source else ""
        )
        add(read, read.began, f"{shown}, until {read.ended - read.began:+.4f}", shown)
    for load in history.loads:
        add(load, load.began, f"{load.replica} loads {load.version}, until {load.ended - load.began:+.4f}")
    for change in history.changes[violation.key]:
        end = "not acknowledged" if change.acked is None else f"acknowledged at {change.acked - change.began:+.4f}"
        add(change, change.began, f"{change.replica} {change.method} of {change.version}, {end}")
    for sample in history.samples:
        add(sample, sample.began, f"Valkey holds {sample.version}", f"Valkey holds {sample.version}")
    for restart in history.restarts:
        if began <= restart.ended and restart.began <= ended:
            lines.append(_Line(restart.began, f"** Valkey is gone, until {restart.ended - restart.began:+.4f}"))
    lines += [_Line(event.began, f"** {event.text}") for event in history.faults if began <= event.began <= ended]
    lines += [
        _Line(event.began, f"** {event.replica} joins, with tracking {event.tracking}")
        for event in history.joined
        if began <= event.began <= ended
    ]
    lines += [_Line(event.began, _failed(event)) for event in history.failures if began <= event.began <= ended]
    return sorted(lines, key=lambda line: line.moment)


def _merged(lines: Sequence[_Line]) -> Iterator[tuple[float, str]]:
    index = 0
    while index < len(lines):
        line, count = lines[index], 1
        while line.group and index + count < len(lines) and lines[index + count].group == line.group:
            count += 1
        yield line.moment, line.text if count == 1 else f"{line.text}, {count} times"
        index += count


def _failed(failure: Failure) -> str:
    return f"{failure.replica} fails on {failure.key}: {failure.text.splitlines()[-1]}"
