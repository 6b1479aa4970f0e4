"""The process that runs the probes of one product: it prints one line of JSON for each cell, and its versions first.

``python -m benchmarks.comparison.worker PRODUCT [ROW ...]``
"""

import asyncio
import contextlib
import json
import os
import platform
import sys
import warnings
from typing import Any

from benchmarks.comparison.bench import Bench, reason_of, running_store
from benchmarks.comparison.model import Model
from benchmarks.comparison.probes import Probe, probes_of
from benchmarks.comparison.product import Answers, Product
from benchmarks.comparison.products import product_class, versions_of

_LIMIT = 150.0
"""Seconds that a probe may take."""


async def run_probe(name: str, row: str, probe: Probe) -> str:
    """Run one probe on a new store, and return its cell; an error of the product is a cell, too."""
    product = product_class(name)
    emulated = row != "plain-store" and issubclass(product, Answers) and product.needs_modules
    with running_store(emulated=emulated) as store, contextlib.closing(Model()) as model:
        try:
            return await asyncio.wait_for(probe(Bench(name, product, store, model)), _LIMIT)
        except Exception as error:
            # Any error of a library is the result.
            return f"**{type(error).__name__}**: {reason_of(error)}"


def main(name: str, rows: list[str]) -> None:
    """Run the probes of a product, or those of ``rows``, one after the other."""
    # Output that a library prints must not mix with the cells.
    cells = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def report(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=cells, flush=True)

    product: type[Product] = product_class(name)
    report({"title": product.title, "versions": versions_of(product), "python": platform.python_version()})
    for row, probe in probes_of(product).items():
        if not rows or row in rows:
            cell = asyncio.run(run_probe(name, row, probe))
            report({"row": row, "cell": cell})
            if row == "thread-plain-store" and cell.startswith("**no**"):
                return  # This saver cannot run here.


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
