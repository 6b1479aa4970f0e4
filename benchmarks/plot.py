"""Draws the figures as an SVG: a panel per work, a bar per cache, every bar labelled with its figure.

The SVG carries its own card as the background and a style sheet with a dark variant, so it can be read on a
light and on a dark page; a viewer without style sheets shows the light one.
"""

import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import ticker
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.peers import PEERS, Work
from benchmarks.report import RIVAL, SUBJECT, WORK_TITLES, Figures, duration

# light, dark
_CARD = ("#fdfdfe", "#0d1118")
_INK = ("#1f2329", "#e6edf4")
_MUTED = ("#59636f", "#9198a2")
_GRID = ("#e3e6eb", "#262c37")
_SUBJECT = ("#0b6bcb", "#4c9ffe")
_RIVAL = ("#bc4c02", "#f0883f")
_PEER = ("#9aa4b1", "#656e7a")
_FLOOR = ("#ccd3dc", "#3a424e")
_COLOURS = (_CARD, _INK, _MUTED, _GRID, _SUBJECT, _RIVAL, _PEER, _FLOOR)
_BAR = 0.68
_LINEAR_RANGE = 20
"""A panel whose figures lie within this factor starts at zero; only a wider one is logarithmic."""


def write_plot(figures: Figures, path: Path) -> None:
    """Draw the panels of the first measured size to ``path``."""
    size = figures.sizes()[0]
    works = figures.works(size.name)
    height = 3.0 * math.ceil(len(works) / 2) + 0.9
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "benchmark"}):
        canvas = Canvas(figsize=(10, height), facecolor=_CARD[0], layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        canvas.suptitle(f"An LLM cache at work: {size.title}", color=_INK[0], fontsize=13, fontweight="bold")
        canvas.supxlabel(
            "Median time, shorter is better; 2x: twice as long as tiercache. "
            + figures.machine.get("versions", "").split(",")[0]
            + " on loopback",
            color=_MUTED[0],
            fontsize=8.5,
        )
        panels = canvas.subplots(math.ceil(len(works) / 2), 2, squeeze=False).flat
        for panel, work in zip(panels, works, strict=False):
            _draw(panel, figures, size.name, work)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_themed(buffer.getvalue()))


def _draw(panel: Any, figures: Figures, size: str, work: Work) -> None:
    rows = [(peer, figure.median) for peer in PEERS if (figure := figures.get(size, work, peer)) is not None]
    low, high = min(median for _, median in rows), max(median for _, median in rows)
    start = 0.0 if high < _LINEAR_RANGE * low else 10 ** math.floor(math.log10(low) - 0.1)
    for place, (peer, median) in enumerate(rows):
        panel.barh(place, median - start, height=_BAR, left=start, color=_colour(peer)[0])
        weight = "bold" if peer == SUBJECT else "normal"
        at = {"xy": (median, place), "xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        text = _label(figures, size, work, peer)
        panel.annotate(text, **at, color=_INK[0], fontsize=8.5, fontweight=weight)
    if start:
        panel.set_xscale("log")
        panel.set_xlim(start, start * (high / start) ** 1.5)
        panel.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        panel.set_xlim(0, high * 1.5)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(5))
    ticks = [tick for tick in panel.get_xticks() if start <= tick <= high * 1.2]
    panel.set_xticks(ticks, [duration(tick) if tick else "0" for tick in ticks])
    panel.set_yticks(range(len(rows)), [_name(peer) for peer, _ in rows])
    panel.invert_yaxis()
    title = WORK_TITLES[work] + (" (logarithmic scale)" if start else "")
    panel.set_title(title, loc="left", color=_INK[0], fontsize=10.5, fontweight="bold")
    _style(panel, [peer for peer, _ in rows])


def _style(panel: Any, peers: list[str]) -> None:
    panel.set_facecolor(_CARD[0])
    panel.grid(axis="x", color=_GRID[0], linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_MUTED[0], length=0)
    for label, peer in zip(panel.get_yticklabels(), peers, strict=True):
        label.set(color=_INK[0], fontweight="bold" if peer == SUBJECT else "normal")
    for spine in panel.spines.values():
        spine.set_visible(False)


def _name(peer: str) -> str:
    info = PEERS[peer]
    return info.title if info.is_cache else "floor (no cache)"


def _label(figures: Figures, size: str, work: Work, peer: str) -> str:
    figure = figures.get(size, work, peer)
    assert figure is not None
    parts = [duration(figure.median)]
    ratio = figures.ratio(size, work, peer)
    if ratio is not None and peer != SUBJECT and PEERS[peer].is_cache:
        parts.append(f"{ratio.value:.0f}x" if ratio.value >= 10 else f"{ratio.value:.1f}x")
    if figure.loader_calls is not None:
        parts.append(f"{figure.loader_calls:,} load" + "s" * (figure.loader_calls != 1))
    if work is Work.L1_HIT and not PEERS[peer].has_l1:
        parts.append("(no L1)")
    if work is Work.STAMPEDE and not PEERS[peer].has_l2:
        parts.append("(no L2)")
    return "  ".join(parts)


def _colour(peer: str) -> tuple[str, str]:
    if not PEERS[peer].is_cache:
        return _FLOOR
    return {SUBJECT: _SUBJECT, RIVAL: _RIVAL}.get(peer, _PEER)


def _themed(svg: str) -> str:
    """Add the dark variant: colours become attributes, which a style sheet may override, and the sheet does
    so.
    """
    svg = re.sub(r'style="([^"]*)"', lambda match: _as_attributes(match[1]), svg)
    changes = [(prop, *colours) for colours in _COLOURS for prop in ("fill", "stroke")]
    rules = "".join(f'[{prop}="{light}"]{{{prop}:{dark}}}' for prop, light, dark in changes)
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + sheet + svg[start:]


def _as_attributes(style: str) -> str:
    """The same declarations, the colours among them as attributes: ``fill="#fdfdfe" style="opacity: 1"``."""
    light = {colours[0] for colours in _COLOURS}
    attributes, rest = [], []
    for declaration in style.split("; "):
        name, _, value = declaration.partition(": ")
        if name in ("fill", "stroke") and value in light:
            attributes.append(f'{name}="{value}"')
        else:
            rest.append(declaration)
    return " ".join([*attributes, f'style="{"; ".join(rest)}"'] if rest else attributes)
