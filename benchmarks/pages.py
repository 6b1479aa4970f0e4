"""Writes the figures of a run into the documentation: tables between marks, and plots.

A mark is a pair of comments, ``<!-- benchmark: goals -->`` and ``<!-- end -->``. A new run replaces the text between
them.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import Results
from benchmarks.tables import goal_table, notes, ratio_table, work_tables
from benchmarks.works import WORKS

_ROOT = Path(__file__).parent.parent
PAGES = tuple(
    _ROOT / page for page in ("README.md", "docs/performance.md", "docs/benchmarks.md", "benchmarks/GOALS.md")
)
"""The pages with marks."""
_ASSETS = _ROOT / "docs" / "assets"
_MARK = re.compile(r"(<!-- benchmark: ([a-z-]+) -->\n).*?(\n?<!-- end -->)", re.DOTALL)

_SUMMARY = (
    ("L1 hit, short", "l1-hit", "short-1"),
    ("L1 hit, 8 KB chat", "l1-hit", "chat-1"),
    ("L1 hit, 100 KB context", "l1-hit", "context-1"),
    ("L2 hit, short", "l2-hit", "short-1"),
    ("L2 hit, 8 KB chat", "l2-hit", "chat-1"),
    ("L2 hit, 100 KB context", "l2-hit", "context-1"),
    ("L2 hit, short, 100 callers", "l2-hit", "short-100"),
    ("miss + store", "miss-store", "short"),
    ("1,000 stores at once", "store-batch", "short"),
    ("tool check, L1", "tool-check", "l1-1"),
    ("session get, L1", "session-get", "l1-1"),
    ("invalidate by tool, 100,000 unrelated keys", "invalidate-tool", "100000"),
)
_SUMMARY_PEERS = ("betterdb", "handmade", "cashews_client_side", "cashews", "aiocache_memory", "aiocache_redis")
_FLOORS = (
    ("L1 hit, short: a dict lookup behind one await", "l1-hit", "short-1"),
    ("L1 hit, 8 KB chat", "l1-hit", "chat-1"),
    ("L1 hit, 100 KB context", "l1-hit", "context-1"),
    ("L2 hit, short: a GET on a raw socket", "l2-hit", "short-1"),
    ("L2 hit, short, 100 callers", "l2-hit", "short-100"),
    ("L2 hit, short, 1,000 callers", "l2-hit", "short-1000"),
    ("miss + store: a GET and a SET on a raw socket", "miss-store", "short"),
    ("1,000 stores at once: SETs on a raw socket", "store-batch", "short"),
)


def write_docs(results: Results) -> None:
    """Write the figures of the run into every mark of the pages, and draw the plots."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8"), results), "utf-8")
    try:
        from benchmarks.plots import write_plots
    except ImportError as error:
        print(f"no plots: {error}; python -m pip install matplotlib", file=sys.stderr)
    else:
        write_plots(results, _ASSETS)


def filled(text: str, results: Results) -> str:
    """Return the page ``text`` with the figures of the run between its marks.

    A mark stays unchanged if the run has no figures for it.
    """

    return fill_marks(text, lambda name: BLOCKS[name](results))


def fill_marks(text: str, block_of: Callable[[str], str]) -> str:
    """Return the page ``text`` with the text of ``block_of`` in each mark; an empty text changes nothing."""

    def replaced(match: re.Match[str]) -> str:
        block = block_of(match[2])
        return f"{match[1]}\n{block}\n{match[3]}" if block else match[0]

    return _MARK.sub(replaced, text)


def _works(results: Results) -> str:
    return "\n\n".join(text for work in WORKS.values() if (text := work_tables(results, work)))


BLOCKS: dict[str, Callable[[Results], str]] = {
    "goals": goal_table,
    "summary": lambda results: ratio_table(results, _SUMMARY, _SUMMARY_PEERS),
    "floors": lambda results: ratio_table(results, _FLOORS, ("floor",), is_inverse=True),
    "uvloop": lambda results: ratio_table(results, _SUMMARY, ("tiercache_uvloop",), is_inverse=True),
    "works": _works,
    "machine": notes,
}
"""The writer of each mark, by the name of the mark."""
