"""The results of a run as Markdown tables, and the page that holds them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.comparison.facts import READ
from benchmarks.comparison.products import ANSWERS, THREADS
from benchmarks.pages import fill_marks

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"
Results = dict[str, Any]
"""For each product its title, versions, the version of Python, and its cells by row."""

HEADINGS = {
    "tiercache": "tiercache",
    "langchain-memory": "LangChain, memory",
    "langchain-community": "LangChain, community",
    "langchain-redis": "LangChain, redis ‡",
    "litellm": "LiteLLM",
    "betterdb": "betterdb",
    "gptcache": "GPTCache",
    "tiercache-saver": "tiercache",
    "memory-saver": "LangGraph, memory",
    "redis-saver": "checkpoint-redis",
    "aws-saver": "checkpoint-aws",
    "betterdb-saver": "betterdb",
}

CALLS = {
    "repeat": "identical call twice, async",
    "repeat-plain": "identical call twice, sync",
    "repeat-long": "identical call twice, in a conversation of 12 messages",
    "stream": "identical stream twice",
    "together": "10 identical calls at once, one process",
    "together-processes": "20 identical calls at once, four processes",
    "memory-level": "process memory in front of the store",
    "plain-store": "runs on a plain Valkey",
}
KEYS = {
    "differ-temperature": "`temperature`",
    "differ-tools": "`tools`",
    "differ-response_format": "`response_format`",
    "differ-system": "the system prompt",
    "differ-seed": "`seed`",
    "differ-extra_body": "`extra_body`",
    "differ-reasoning_effort": "`reasoning_effort`",
    "differ-image": "an image in the question",
    "differ-api_base": "the server that answers",
}
SURVIVAL = {
    "survives-tools": "calls of tools",
    "survives-usage": "usage, in tokens",
    "survives-several": "the second of two choices (`n=2`)",
    "survives-refusal": "a refusal",
    "survives-finish": "the finish reason",
    "survives-cut": "an answer that the token limit cut off",
    "pickle": "pickle is used",
}
FAULTS = {
    "killed-during": "is killed while the model works",
    "hung-during": "hangs while the model works",
    "down": "is down before two identical calls",
}
CHANGES = {
    "invalidate-entry": "one entry",
    "invalidate-tag": "all entries with a tag",
    "invalidate-model": "all answers of a model",
    "clear": "everything",
    "ttl": "a lifetime for all entries",
    "ttl-of-call": "a lifetime for one call",
    "statistics": "counters",
}
STORES = {
    "similar": "hits for similar questions (semantic)",
    "stores": "stores",
    "cluster": "Cluster, Sentinel",
    "hosted": "a hosted store or service",
}
MORE = {
    "other-tiers": "keeps more than model answers",
    "proxy": "a proxy or server",
    "languages": "other languages than Python",
    "metrics": "metrics and traces",
    "licence": "licence, last release",
}
THREAD_ROWS = {
    "thread-plain-store": "runs on a plain Valkey",
    "thread-plain-calls": "sync graphs",
    "thread-messages": "messages after 40 turns, read by a new saver",
    "thread-history": "checkpoints in the history",
    "thread-memory": "memory in Valkey, in multiples of the text",
    "thread-killed": "the store is killed between two turns",
    "thread-hung": "the store hangs between two turns",
    "thread-ttl": "a lifetime for threads",
    "thread-pickle": "pickle is used",
    "thread-latest": "a saver that keeps the latest checkpoint only",
    "thread-stores": "stores",
    "thread-licence": "licence, last release",
}
TABLES: dict[str, tuple[str, dict[str, str], Iterable[str]]] = {
    "comparison-calls": ("", CALLS, ANSWERS),
    "comparison-keys": ("two calls that differ only in", KEYS, ANSWERS),
    "comparison-answers": ("part of the answer", SURVIVAL, ANSWERS),
    "comparison-faults": ("the store", FAULTS, ANSWERS),
    "comparison-changes": ("", CHANGES, ANSWERS),
    "comparison-stores": ("", STORES, ANSWERS),
    "comparison-more": ("", MORE, ANSWERS),
    "comparison-threads": ("", THREAD_ROWS, THREADS),
}
_TURNED = {"comparison-faults", "comparison-stores", "comparison-more"}
"""Tables of long texts: each product is a row."""


def cell(results: Results, row: str, product: str) -> str:
    """Return the text of a cell: of a probe, or with a mark of a fact that was read, or "-"."""
    ran = results.get(product, {}).get("cells", {}).get(row)
    if ran is not None:
        return str(ran)
    read = READ.get(row, {}).get(product)
    return "-" if read is None else f"{read} †"


def block_of(results: Results, name: str) -> str:
    """Return the Markdown of the mark ``name``: a table, or the list of the versions."""
    if name == "comparison-versions":
        return _versions(results)
    first, rows, products = TABLES[name]
    products = list(products)
    lines = [[first, *(HEADINGS[product] for product in products)]]
    lines += [[title, *(cell(results, row, product) for product in products)] for row, title in rows.items()]
    if name in _TURNED:
        lines = [list(line) for line in zip(*lines, strict=True)]
    return _table(lines)


def markdown(results: Results) -> str:
    """Return all tables."""
    return "\n\n".join(block_of(results, name) for name in [*TABLES, "comparison-versions"])


def write_page(results: Results) -> None:
    """Write the tables into the marks of the page."""
    PAGE.write_text(filled(PAGE.read_text("utf-8"), results), "utf-8")


def filled(text: str, results: Results) -> str:
    """Return the page ``text`` with the tables between its marks."""
    return fill_marks(text, lambda name: block_of(results, name))


def _versions(results: Results) -> str:
    lines = [["column", "product", "versions", "Python", "run on"]]
    for name, heading in HEADINGS.items():
        if found := results.get(name):
            versions = ", ".join(f"{each} {number}" for each, number in found["versions"].items())
            lines.append([heading, found["title"], versions, found["python"], found["date"]])
    return _table(lines)


def _table(lines: list[list[str]]) -> str:
    rows = [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
