"""Run the matrix, print the observed outcomes, and compare them with the expected ones.

python -m tests.faults                  # every fault
python -m tests.faults READONLY keys    # the faults whose names contain one of these texts
python -m tests.faults --write-docs     # every fault; then write the tables into docs/reliability.md
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.faults.faults import FAULTS, Fault
from tests.faults.page import PAGE, updated
from tests.faults.rights import RIGHTS
from tests.faults.run import Cell, run_under, wrong_cells


def _print(fault: type[Fault], cells: list[Cell], seconds: float) -> None:
    by_outcome: dict[str, dict[str, None]] = {}
    for operation, outcome in cells:
        by_outcome.setdefault(outcome, {})[operation.name] = None
    print(f"{fault.name} ({len(cells)} calls, {seconds:.1f} s)")
    for outcome, names in by_outcome.items():
        print(f"    {outcome}: {', '.join(names)}")


def main(arguments: list[str]) -> int:
    """Run the faults that ``arguments`` name; return 1 if an outcome was not expected, else 0."""
    texts = [argument for argument in arguments if not argument.startswith("--")]
    chosen = [fault for fault in (*FAULTS, *RIGHTS) if not texts or any(text in fault.name for text in texts)]
    failed = 0
    for fault in chosen:
        began = time.monotonic()
        try:
            cells = asyncio.run(run_under(fault))
            wrong = wrong_cells(fault, cells)
        except AssertionError as error:
            cells, wrong = [], [f"the caches did not recover: {error}"]
        _print(fault, cells, time.monotonic() - began)
        for line in wrong:
            print(f"    NOT EXPECTED: {line}")
        failed += bool(wrong)
    print(f"{len(chosen) - failed} of {len(chosen)} faults had the expected outcomes")
    if "--write-docs" in arguments and not failed and not texts:
        PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
