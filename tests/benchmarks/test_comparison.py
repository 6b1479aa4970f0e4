"""The probes of the comparison notice defects, tiercache has the stored results, and the page shows these results."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.comparison import tables
from benchmarks.comparison.__main__ import RESULTS
from benchmarks.comparison.facts import READ
from benchmarks.comparison.probes import ANSWER_PROBES, KEYS, SURVIVAL, THREADS, changes
from benchmarks.comparison.products import ANSWERS, PRODUCTS, why_missing
from benchmarks.comparison.worker import run_probe

STORED: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
ROWS = {
    row
    for table in (
        tables.CALLS,
        tables.KEYS,
        tables.SURVIVAL,
        tables.FAULTS,
        tables.CHANGES,
        tables.STORES,
        tables.MORE,
        tables.THREAD_ROWS,
    )
    for row in table
}
UNCACHED, CARELESS, EMULATED, MODULES = (
    f"tests.benchmarks.bad_caches:{name}" for name in ("Uncached", "Careless", "Emulated", "Modules")
)
DEFECTS = [
    ("repeat", UNCACHED, "2 calls"),
    ("repeat-plain", UNCACHED, "2 calls"),
    ("repeat-long", UNCACHED, "2 calls"),
    ("stream", UNCACHED, "2 calls"),
    ("stream", CARELESS, "1 call, other events"),
    ("together", CARELESS, "10 calls"),
    ("together-processes", CARELESS, "20 calls"),
    ("memory-level", CARELESS, "no"),
    ("memory-level", EMULATED, "no"),
    ("plain-store", UNCACHED, "**no hit**"),
    ("plain-store", MODULES, "**no**: unknown command 'JSON.GET'"),
    ("pickle", CARELESS, "**yes**"),
    *((row, CARELESS, "**1 answer**") for row in KEYS),
    *((row, CARELESS, "**stored**" if row == "survives-cut" else "**lost**") for row in SURVIVAL),
    ("killed-during", CARELESS, "**ConnectionError**"),
    ("hung-during", CARELESS, "**TimeoutError**"),
    ("down", CARELESS, "**ConnectionError**"),
    ("invalidate-entry", CARELESS, "**not within 1 s**"),
    ("invalidate-tag", CARELESS, "no"),
    ("invalidate-model", CARELESS, "no"),
    ("clear", CARELESS, "no"),
    ("ttl", CARELESS, "**not kept**"),
    ("statistics", CARELESS, "no"),
]

pytestmark = pytest.mark.filterwarnings("default")  # Libraries whose server is gone may raise warnings.


@pytest.mark.parametrize(("row", "product", "cell"), DEFECTS)
async def test_probe_notices_defect(row: str, product: str, cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "LIMIT", 1.0)
    assert await run_probe(product, row, ANSWER_PROBES[row]) == cell
    assert cell != STORED["tiercache"]["cells"][row]


@pytest.mark.parametrize("row", ANSWER_PROBES)
async def test_tiercache_has_the_results_of_the_page(row: str) -> None:
    found, stored = await run_probe("tiercache", row, ANSWER_PROBES[row]), STORED["tiercache"]["cells"][row]
    # The time until another process is informed depends on the machine.
    is_timed = row.startswith("invalidate-") or row == "clear"
    assert (found.partition(",")[0] if is_timed else found) == (stored.partition(",")[0] if is_timed else stored)


def test_every_probe_has_a_defect_that_it_notices() -> None:
    assert {row for row, _, _ in DEFECTS} == set(ANSWER_PROBES)


def test_page_shows_the_stored_results() -> None:
    text = tables.PAGE.read_text("utf-8")
    assert tables.filled(text, STORED) == text
    assert all(f"<!-- benchmark: {name} -->" in text for name in (*tables.TABLES, "comparison-versions"))


def test_page_has_every_product_and_every_row() -> None:
    assert set(STORED) == set(PRODUCTS) == set(tables.HEADINGS)
    assert set(ANSWER_PROBES) | set(THREADS) | set(READ) == ROWS


def test_table_marks_cells_that_were_read() -> None:
    cells = {"tiercache": {"cells": {"ttl": "yes"}}}
    assert [tables.cell(cells, row, "tiercache") for row in ("ttl", "ttl-of-call", "repeat")] == ["yes", "yes †", "-"]


def test_every_answer_product_has_a_result_or_a_fact_in_every_row() -> None:
    rows = ROWS - set(tables.THREAD_ROWS)
    assert [(row, name) for row in rows for name in ANSWERS if tables.cell(STORED, row, name) == "-"] == []


def test_command_names_product_that_is_not_installed_and_keeps_its_results() -> None:
    reason = why_missing("gptcache")
    if not reason:
        pytest.skip("GPTCache is installed")
    command = [sys.executable, "-m", "benchmarks.comparison", "gptcache", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"gptcache is not installed: {reason}" in done.stderr
    assert json.loads(done.stdout) == STORED
