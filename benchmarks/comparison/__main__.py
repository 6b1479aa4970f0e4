"""Run the comparison: ``python -m benchmarks.comparison``.

Each product runs in a process of its own, with the Python of this command. Products that are not installed keep the
results that the file has: run the command once in each environment.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.comparison.products import PRODUCTS, why_missing
from benchmarks.comparison.tables import Results, markdown, write_page

RESULTS = Path(__file__).parents[1] / "comparison.json"


def main() -> None:
    """Run the products, and print or write the tables."""
    options = _parser().parse_args()
    results: Results = json.loads(RESULTS.read_text("utf-8"))
    for name in options.products or PRODUCTS:
        if options.no_run:
            break
        if reason := why_missing(name):
            print(f"{name} is not installed: {reason}", file=sys.stderr)
        else:
            results[name] = run_product(name)
    if options.json:
        print(json.dumps(results, indent=1))
    elif not options.write:
        print(markdown(results))
    if options.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        write_page(results)


def run_product(name: str) -> dict[str, Any]:
    """Run every probe of a product and return its part of the results.

    Raises:
        RuntimeError: The process of the product failed.
    """
    found: dict[str, Any] = {}
    cells: dict[str, str] = {}
    command = [sys.executable, "-m", "benchmarks.comparison.worker", name]
    # The libraries log the faults that the probes make.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            if "row" in report:
                cells[report["row"]] = report["cell"]
                print(f"{name}: {report['row']}: {report['cell']}", file=sys.stderr)
            else:
                found = report
    if process.returncode:
        raise RuntimeError(f"the process of {name} ended with {process.returncode}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**found, "date": today, "cells": cells}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("products", nargs="*", metavar="PRODUCT", help=f"any of {', '.join(PRODUCTS)}; none: all")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and not as Markdown")
    parser.add_argument("--write", action="store_true", help="write benchmarks/comparison.json and docs/comparison.md")
    parser.add_argument("--no-run", action="store_true", help="run nothing; print or write the stored results")
    return parser


if __name__ == "__main__":
    main()
