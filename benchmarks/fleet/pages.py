"""Writes the figures of a run into ``docs/fleet.md``, between its marks, and draws the plots."""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.fleet.tables import change_tables, throughput_tables
from benchmarks.pages import fill_marks
from benchmarks.results import Results
from benchmarks.tables import notes

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "fleet.md"
BLOCKS: dict[str, Callable[[Results], str]] = {
    "fleet-throughput": throughput_tables,
    "fleet-followers": change_tables,
    "fleet-machine": notes,
}
"""The writer of each mark, by the name of the mark."""


def write_docs(results: Results) -> None:
    """Write the figures into the page, and draw the plots."""
    PAGE.write_text(fill_marks(PAGE.read_text("utf-8"), lambda name: BLOCKS[name](results)), "utf-8")
    try:
        from benchmarks.fleet.plots import write_plots
    except ImportError as error:
        print(f"no plots: {error}; python -m pip install matplotlib", file=sys.stderr)
    else:
        write_plots(results, _DOCS / "assets")
