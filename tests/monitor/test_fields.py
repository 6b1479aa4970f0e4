"""The fields of the statistics hash: names that the Monitor cannot read are not written, and junk is not believed."""

from __future__ import annotations

import logging

import pytest
import valkey

from tests.support import until
from tiercache import AgentCache

STATS = "test:__stats"


def fields_of(plain: valkey.Valkey) -> dict[str, int]:
    return {field.decode(): int(value) for field, value in plain.hgetall(STATS).items()}


async def test_tool_named_proto_counts_in_the_sums_alone(cache: AgentCache, plain: valkey.Valkey) -> None:
    """The Monitor would write the fields of this tool into the prototype of all its objects."""
    await cache.tool.store("__proto__", {}, "x", cost=1.5)
    assert (await cache.tool.check("__proto__", {})).hit
    assert not (await cache.tool.check("__proto__", {"a": 1})).hit
    assert (await cache.tool.get_or_load("__proto__", {}, lambda: "y")).response == "x"
    await until(lambda: fields_of(plain).get("tool:hits") == 2)
    await cache.aclose()
    fields = fields_of(plain)
    assert (fields["tool:hits"], fields["tool:misses"], fields["cost_saved_micros"]) == (2, 1, 3_000_000)
    assert not [field for field in fields if "__proto__" in field]


@pytest.mark.parametrize("tool", ["constructor", "toString", "prototype", "hasOwnProperty", "__proto", "proto__"])
async def test_tool_with_another_name_has_fields(cache: AgentCache, plain: valkey.Valkey, tool: str) -> None:
    await cache.tool.check(tool, {})
    await until(lambda: fields_of(plain).get(f"tool:{tool}:misses") == 1)


JUNK = [b"x", b"", b"-5", b"1.5", b"9223372036854775808", b"9" * 5000, b" 1", b"1_0", "\u0661".encode(), b"\xff", b"+1"]


async def test_fields_that_are_no_counts_are_left_out_with_one_warning(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.hset(STATS, mapping={f"tool:t{n}:hits": value for n, value in enumerate(JUNK)})
    plain.hset(STATS, b"tool:\xff:hits", 1)
    plain.hset(STATS, mapping={"llm:hits": "7", "tool:good:hits": str(2**63 - 1), "cost_saved_micros": "9" * 400})
    for _ in range(3):
        stats = await cache.stats()
        assert await cache.tool_effectiveness(min_samples=1)
    assert (stats.llm.hits, stats.cost_saved_micros) == (7, 0)
    assert {tool: counts.hits for tool, counts in stats.per_tool.items()} == {"good": 2**63 - 1}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert len(warnings[0].message) < 300
