"""The tables of ``docs/reliability.md`` show the expected outcomes of the matrix."""

from __future__ import annotations

from tests.faults.page import PAGE, tables_in, updated


def test_fault_page_has_the_tables_of_the_matrix() -> None:
    page = PAGE.read_text("utf-8")
    assert tables_in(page) == ["faults", "rights"]
    assert updated(page) == page, "run python -m tests.faults --write-docs"


def test_fault_page_check_notices_other_cell() -> None:
    page = PAGE.read_text("utf-8")
    other = page.replace("| unavailable | unavailable |", "| unavailable | done |", 1)
    assert other != page
    assert updated(other) == page
