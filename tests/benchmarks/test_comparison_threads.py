"""The probes of the comparison notice defects of checkpoint savers, and tiercache's saver has the stored results."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("langgraph")

from benchmarks.comparison.__main__ import RESULTS
from benchmarks.comparison.probes import THREADS
from benchmarks.comparison.worker import run_probe

STORED = json.loads(RESULTS.read_text("utf-8"))
FORGETFUL, MODULES = (f"tests.benchmarks.bad_savers:{name}" for name in ("Forgetful", "Modules"))
DEFECTS = [
    ("thread-plain-store", MODULES, "**no**: unknown command 'FT.INFO'"),
    ("thread-plain-calls", FORGETFUL, "no"),
    ("thread-messages", FORGETFUL, "**0 of 80**"),
    ("thread-history", FORGETFUL, "0 of 120"),
    ("thread-memory", FORGETFUL, "0.0x, 0 keys"),
    ("thread-killed", FORGETFUL, "**goes on without its state**"),
    ("thread-hung", FORGETFUL, "**goes on without its state**"),
    ("thread-ttl", FORGETFUL, "**not kept**"),
    ("thread-pickle", FORGETFUL, "**yes**"),
]

pytestmark = pytest.mark.filterwarnings("default")  # Libraries whose server is gone may raise warnings.


@pytest.mark.parametrize(("row", "product", "cell"), DEFECTS)
async def test_probe_notices_defect_of_saver(row: str, product: str, cell: str) -> None:
    assert await run_probe(product, row, THREADS[row]) == cell
    assert cell != STORED["tiercache-saver"]["cells"][row]


@pytest.mark.parametrize("row", [row for row in THREADS if row != "thread-memory"])
async def test_saver_of_tiercache_has_the_results_of_the_page(row: str) -> None:
    assert await run_probe("tiercache-saver", row, THREADS[row]) == STORED["tiercache-saver"]["cells"][row]


async def test_saver_of_tiercache_needs_little_memory() -> None:
    stored, found = (
        float(cell.partition("x")[0])
        for cell in (
            STORED["tiercache-saver"]["cells"]["thread-memory"],
            await run_probe("tiercache-saver", "thread-memory", THREADS["thread-memory"]),
        )
    )
    assert found == pytest.approx(stored, rel=0.2)


def test_every_probe_of_savers_has_a_defect_that_it_notices() -> None:
    assert {row for row, _, _ in DEFECTS} == set(THREADS)
