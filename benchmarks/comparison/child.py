"""Another process with a product: it reads orders from standard input, one JSON object per line, and asks.

Its arguments are the name of the product and its setting as JSON. It prints one line when it is ready, and one for each
order.
"""

import asyncio
import json
import os
import sys
from typing import Any, TextIO

from benchmarks.comparison.product import Answers, Setting
from benchmarks.comparison.products import product_class


async def _serve(product: Answers, answers: TextIO) -> None:
    print(json.dumps({"texts": []}), file=answers, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        try:
            replies = await asyncio.gather(*(product.ask(order["question"]) for _ in range(order["callers"])))
            answer: dict[str, Any] = {"texts": [reply.texts[0] for reply in replies]}
        except Exception as error:
            # Any error of a library is the answer to this order.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


async def _main(name: str, setting: Setting) -> None:
    # Output that a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    product = product_class(name)()
    assert isinstance(product, Answers)
    await product.open(setting)
    try:
        await _serve(product, answers)
    finally:
        await product.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Setting(**json.loads(sys.argv[2]))))
