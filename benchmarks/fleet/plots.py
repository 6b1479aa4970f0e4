"""Draws a run as two SVG files: the throughput by processes, and the cost of a change by the number of followers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.colours import FLOOR, INK, MUTED, PEER, RIVAL, SUBJECT
from benchmarks.fleet import changes, tables, throughput
from benchmarks.fleet.plan import PEERS
from benchmarks.plots import Line, canvas_of, draw_lines, line_of, save_plots, thousands
from benchmarks.results import Case, Results
from benchmarks.tables import duration

_CHANGES = (
    ("CPU of the server, a load", "load", "server"),
    ("CPU of the server, a store", "store", "server"),
    ("CPU of the server, an invalidation", "invalidate", "server"),
    ("CPU of all clients, a load", "load", "cpu"),
)
_COLOURS = (SUBJECT, RIVAL, PEER, MUTED, FLOOR)


def write_plots(results: Results, folder: Path) -> None:
    """Draw every plot for which the run has figures into ``folder``."""
    save_plots({"fleet-throughput.svg": _throughput, "fleet-followers.svg": _followers}, results, folder)


def _throughput(results: Results) -> Figure | None:
    fleets = sorted({tables.scale_of(case) for case in results.rounds if case.work == throughput.WORK})
    if not fleets:
        return None
    sizes, callers = sorted({size for size, _ in fleets}), sorted({callers for _, callers in fleets})
    panels: list[tuple[str, int, str, Callable[[float], str]]] = [
        (f"Operations a second, {_callers(callers[0])}", callers[0], "wall", thousands),
        (f"Operations a second, {_callers(callers[-1])}", callers[-1], "wall", thousands),
        (f"Operations a CPU second of the clients, {_callers(callers[-1])}", callers[-1], "cpu", thousands),
        (f"CPU of the server, an operation, {_callers(callers[-1])}", callers[-1], "server", duration),
    ]
    canvas, axes = canvas_of(len(panels), 3.2, "The same work in fleets of more and more processes", "Processes")
    for axis, (title, count, clock, text) in zip(axes, panels, strict=False):
        lines = []
        for peer in PEERS:
            cases = [(size, throughput.case_of(size, count, peer)) for size in sizes]
            points = _points(results, cases, clock)
            if points:
                rates = [(size, 1 / value) for size, value in points]
                lines.append(line_of(peer, points if clock == "server" else rates))
        _panel(axis, title, lines, text)
    return canvas


def _followers(results: Results) -> Figure | None:
    counts = tables.follower_counts(results)
    if not counts:
        return None
    canvas, axes = canvas_of(
        len(_CHANGES), 3.2, "One change, while more and more caches follow", "Caches that follow; logarithmic"
    )
    for axis, (title, change, clock) in zip(axes, _CHANGES, strict=False):
        lines = []
        for number, tracking in enumerate(tables.trackings(results)):
            cases = [(count, changes.case_of(change, tracking, count)) for count in counts]
            name, colour = f'tracking="{tracking}"', _COLOURS[number % len(_COLOURS)]
            lines.append(Line(name, _points(results, cases, clock), colour, is_bold=not number))
        if change == "invalidate":
            cases = [(count, changes.floor_case(count)) for count in counts]
            lines.append(Line(tables.FLOOR_TITLE, _points(results, cases, clock), MUTED, is_dashed=True))
        _panel(axis, title, lines, duration)
    return canvas


def _points(results: Results, cases: list[tuple[int, Case]], clock: str) -> list[tuple[int, float]]:
    return [(x, median) for x, case in cases if (median := results.median(case, clock)) is not None]


def _panel(axis: Any, title: str, lines: list[Line], text: Callable[[float], str]) -> None:
    if any(line.points for line in lines):
        draw_lines(axis, lines, text)
    axis.set_title(title, loc="left", color=INK[0], fontsize=10.5, fontweight="bold")


def _callers(count: int) -> str:
    return f"{count} caller{'s' * (count > 1)} each"
