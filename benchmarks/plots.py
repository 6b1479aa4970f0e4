"""Draws a run as three SVG files: latency by source, throughput by callers, cost by size of the keyspace.

Each file has its own background and a style sheet with a dark variant, so that it can be read on a light and on a dark
page. A viewer without style sheets shows the light variant.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.colours import CARD, FLOOR, GRID, INK, MUTED, PEER, RIVAL, SUBJECT, themed
from benchmarks.peers import PEERS, peer_class
from benchmarks.results import SUBJECT as OURS
from benchmarks.results import Case, Results
from benchmarks.tables import digits, duration, peer_title
from benchmarks.works.groups import UNRELATED
from benchmarks.works.lookups import CALLERS

_LATENCIES = (
    ("L1 hit, short request", "l1-hit", "short-1"),
    ("L2 hit, short request", "l2-hit", "short-1"),
    ("L1 hit, 8 KB chat with tools", "l1-hit", "chat-1"),
    ("Miss and store, short request", "miss-store", "short"),
)
_THROUGHPUTS = (("L1 hit, short request", "l1-hit"), ("L2 hit, short request", "l2-hit"))
_GROUPS = (
    ("session-all", "session.get_all"),
    ("destroy-thread", "session.destroy_thread"),
    ("invalidate-tool", "tool.invalidate_by_tool"),
    ("invalidate-model", "llm.invalidate_by_model"),
)
_LINES = (OURS, "betterdb", "handmade", "cashews", "cashews_client_side", "coredis", "floor")
_BAR = 0.68
_LINEAR_RANGE = 20
"""A panel whose bars differ by less than this factor starts at zero; any other panel is logarithmic."""
_MIN_LABEL_DISTANCE = 0.055
"""Fraction of the height of a panel; labels of lines that end closer are moved apart."""


def write_plots(results: Results, folder: Path) -> None:
    """Draw every plot for which the run has figures into ``folder``."""
    plots: dict[str, Callable[[Results], Figure | None]] = {
        "benchmark.svg": _latency,
        "throughput.svg": _throughput,
        "keyspace.svg": _keyspace,
    }
    save_plots(plots, results, folder)


def save_plots(plots: Mapping[str, Callable[[Results], Figure | None]], results: Results, folder: Path) -> None:
    """Draw each plot for which the run has figures into a file of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in plots.items():
        with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "benchmark"}):
            canvas = draw(results)
            if canvas is not None:
                buffer = io.StringIO()
                canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
                (folder / name).write_text(themed(buffer.getvalue()), "utf-8")


def _latency(results: Results) -> Figure | None:
    shown = [each for each in _LATENCIES if results.median(Case(*each[1:], OURS)) is not None]
    if not shown:
        return None
    canvas, panels = canvas_of(
        len(shown),
        3.4,
        "Time per call, one caller",
        "Shorter is better, L1 logarithmic. The median of tiercache; other caches: this median times their ratio to it",
    )
    for panel, (title, work, variant) in zip(panels, shown, strict=False):
        _bars(panel, results, work, variant)
        panel.set_title(title, loc="left", color=INK[0], fontsize=10.5, fontweight="bold")
    return canvas


def _bars(panel: Any, results: Results, work: str, variant: str) -> None:
    own = results.median(Case(work, variant, OURS)) or 0.0
    # Ratios of one round compare times at one speed of the machine. Medians of all rounds mix two speeds, and their
    # quotients would contradict the ratios in the tables.
    cases = [(peer, results.speed(work, variant, peer)) for peer in PEERS if not peer.startswith("tiercache_")]
    rows = [(peer, own * ratio.value) for peer, ratio in cases if ratio is not None]
    low, high = min(time for _, time in rows), max(time for _, time in rows)
    start = 0.0 if high < _LINEAR_RANGE * low else 10 ** math.floor(math.log10(low) - 0.1)
    for place, (peer, time) in enumerate(rows):
        panel.barh(place, time - start, height=_BAR, left=start, color=_colour(peer)[0])
        text = duration(time)
        if peer != OURS and peer_class(peer).is_cache:
            text += f"  {digits(time / own)}x"
        if variant.endswith("-1") and work == "l1-hit" and "l1" not in peer_class(peer).levels:
            text += "  (no L1)"
        at = {"xy": (time, place), "xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        panel.annotate(text, **at, color=INK[0], fontsize=8.5, fontweight=_weight(peer))
    if start:
        panel.set_xscale("log")
        panel.set_xlim(start, start * (high / start) ** 1.55)
        panel.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        panel.set_xlim(0, high * 1.5)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(4))
    ticks = [tick for tick in panel.get_xticks() if start <= tick <= high * 1.2]
    panel.set_xticks(ticks, [duration(tick) if tick else "0" for tick in ticks])
    panel.set_yticks(range(len(rows)), [_name(peer) for peer, _ in rows])
    panel.invert_yaxis()
    style(panel, "x")
    for label, (peer, _) in zip(panel.get_yticklabels(), rows, strict=True):
        label.set(color=INK[0], fontweight=_weight(peer))


def _throughput(results: Results) -> Figure | None:
    shown = [each for each in _THROUGHPUTS if results.median(Case(each[1], "short-1", OURS)) is not None]
    if not shown:
        return None
    canvas, panels = canvas_of(
        len(shown),
        4.2,
        "Calls per second by number of callers",
        "Concurrent callers (tasks of one process); logarithmic",
    )
    for panel, (title, work) in zip(panels, shown, strict=False):
        lines = {
            peer: [(callers, 1 / median) for callers in CALLERS if (median := _wall(results, work, callers, peer))]
            for peer in _LINES
            if work == "l2-hit" or peer == "betterdb" or "l1" in peer_class(peer).levels
        }
        draw_lines(panel, (line_of(*line) for line in lines.items()), thousands)
        panel.set_title(title, loc="left", color=INK[0], fontsize=10.5, fontweight="bold")
    return canvas


def thousands(value: float) -> str:
    """Return a number with three digits: ``12.3k``."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return digits(value / factor) + unit
    return digits(value)


def _wall(results: Results, work: str, callers: int, peer: str) -> float | None:
    return results.median(Case(work, f"short-{callers}", peer))


def _keyspace(results: Results) -> Figure | None:
    shown = [each for each in _GROUPS if results.median(Case(each[0], str(UNRELATED[0]), OURS)) is not None]
    if not shown:
        return None
    canvas, panels = canvas_of(
        len(shown), 3.2, "Ten entries among more and more unrelated keys", "Unrelated keys in Valkey; logarithmic"
    )
    for panel, (work, title) in zip(panels, shown, strict=False):
        lines = {
            peer: [(count, median) for count in UNRELATED if (median := results.median(Case(work, str(count), peer)))]
            for peer in (OURS, "betterdb")
        }
        draw_lines(panel, (line_of(*line) for line in lines.items()), duration)
        panel.set_title(title, loc="left", color=INK[0], fontsize=10.5, fontweight="bold")
    return canvas


@dataclass(frozen=True)
class Line:
    """A line of a panel: its points, and the name at its right end."""

    name: str
    points: list[tuple[int, float]]
    colour: tuple[str, str]
    is_bold: bool = False
    is_dashed: bool = False


def line_of(peer: str, points: list[tuple[int, float]]) -> Line:
    """Return the line of a peer; a floor is dashed."""
    is_cache = peer_class(peer).is_cache
    return Line(_name(peer), points, _colour(peer) if is_cache else MUTED, peer == OURS, not is_cache)


def draw_lines(panel: Any, lines: Iterable[Line], text: Callable[[float], str]) -> None:
    """Draw the lines that have points on logarithmic axes, with their names at the right end."""
    shown = [line for line in lines if line.points]
    for line in shown:
        panel.plot(
            *zip(*line.points, strict=True),
            "--" if line.is_dashed else "-",
            color=line.colour[0],
            linewidth=2.4 if line.is_bold else 1.4,
            marker="o",
            markersize=4,
        )
    values = [value for line in shown for _, value in line.points]
    low, high = min(values) / 1.6, max(values) * 1.6
    xs = sorted({x for line in shown for x, _ in line.points})
    panel.set(xscale="log", yscale="log", xlim=(xs[0] / 1.3, xs[-1] * (xs[-1] / xs[0]) ** 0.75), ylim=(low, high))
    panel.set_xticks(xs, [f"{x:,}" for x in xs])
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_major_formatter(lambda value, _: text(value))
    style(panel, "both")
    span = math.log10(high / low)
    ends = sorted((math.log10(line.points[-1][1] / low) / span, number) for number, line in enumerate(shown))
    for place, number in _apart(ends):
        line = shown[number]
        x, value = line.points[-1]
        panel.annotate(
            f"{line.name}  {text(value)}",
            xy=(x, value),
            xytext=(x * 1.18, low * 10 ** (place * span)),
            va="center",
            color=INK[0],
            fontsize=8.5,
            fontweight="bold" if line.is_bold else "normal",
            bbox={"facecolor": CARD[0], "edgecolor": "none", "pad": 1.5},
        )


def _apart(ends: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the places of the labels, lowest first, far enough apart to be read."""
    placed: list[tuple[float, int]] = []
    for place, number in ends:
        lowest = placed[-1][0] + _MIN_LABEL_DISTANCE if placed else place
        placed.append((max(place, lowest), number))
    over = max(0.0, placed[-1][0] - 0.98)
    return [(place - over, number) for place, number in placed] if over else placed


def canvas_of(count: int, height: float, title: str, below: str) -> tuple[Figure, Any]:
    """Return a figure with ``count`` panels, two in a row; ``height`` is that of a row, in inches."""
    rows = math.ceil(count / 2)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    canvas = Figure(figsize=(10, height * rows + 0.9), facecolor=CARD[0], layout=layout)
    canvas.suptitle(title, color=INK[0], fontsize=13, fontweight="bold")
    canvas.supxlabel(below, color=MUTED[0], fontsize=8.5)
    panels = canvas.subplots(rows, 2, squeeze=False).flat
    for panel in list(panels)[count:]:
        panel.set_axis_off()
    return canvas, canvas.axes


def style(panel: Any, axis: str) -> None:
    """Set the colours of a panel, and its grid along ``axis``."""
    panel.set_facecolor(CARD[0])
    panel.grid(axis=axis, color=GRID[0], linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=MUTED[0], length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _name(peer: str) -> str:
    if not peer_class(peer).is_cache:
        return "floor (no cache)"
    return peer_title(peer).replace("cachetools.TTLCache + asyncio.Lock", "cachetools + asyncio.Lock")


def _weight(peer: str) -> str:
    return "bold" if peer == OURS else "normal"


def _colour(peer: str) -> tuple[str, str]:
    if not peer_class(peer).is_cache:
        return FLOOR
    return {OURS: SUBJECT, "betterdb": RIVAL}.get(peer, PEER)
