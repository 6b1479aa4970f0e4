"""The rights of a user: those of the docs are enough for every operation, each is used, and each may be missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
import valkey

from tests.docs.pages import DOCS
from tests.every_operation import LOADS, OPERATIONS
from tests.seams import internals, set_intervals
from tests.support import until
from tiercache import AgentCache, CoherenceOptions, L2CommandError, SessionOptions
from tiercache.embedded import EmbeddedValkey

NAME = "agents"


def documented_rules() -> list[str]:
    """Return the rules of the block in the page about security, without the password."""
    text = (DOCS / "security.md").read_text("utf-8")
    found = re.search(r"ACL SETUSER worker reset on >secret\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1].split()


RULES = documented_rules()
# Rights that only a long list, a change of options or a fault needs: a broken connection, a missing index, entries of
# other software.
SELDOM = {"+client|kill", "+unsubscribe", "+setrange", "+zrandmember", "+hexists", "+zscore", "+sismember"}


@pytest.fixture(scope="module")
def rights_server() -> Iterator[EmbeddedValkey]:
    """Return a server of its own: the log of refusals belongs to the whole server."""
    server = EmbeddedValkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def plain(rights_server: EmbeddedValkey) -> Iterator[valkey.Valkey]:
    """Return a client of the emptied server."""
    with valkey.Valkey.from_url(rights_server.url) as client:
        client.flushall()
        yield client


def user_without(plain: valkey.Valkey, server: EmbeddedValkey, *missing: str) -> str:
    """Return the URL of a user who has the rights of the docs without ``missing``."""
    rules = [rule for rule in RULES if rule not in missing]
    plain.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">secret", *rules)
    plain.execute_command("ACL", "LOG", "RESET")
    return f"unix://worker@{server.url.removeprefix('unix://')}?password=secret"


def refusals(plain: valkey.Valkey) -> list[str]:
    """Return the commands, keys and channels that the server has refused."""
    return sorted({str(entry["object"]) for entry in plain.acl_log()})


async def run_all(cache: AgentCache) -> dict[str, Any]:
    """Return the outcome of each operation: its result, or the error that Valkey's refusal raises."""
    outcomes: dict[str, Any] = {}
    for name, operation in OPERATIONS.items():
        try:
            outcomes[name] = await operation(cache)
        except L2CommandError as error:
            outcomes[name] = error
    await internals(cache).beat()
    return outcomes


@pytest.mark.parametrize("tracking", ["broadcast", "interest"])
async def test_rights_of_the_docs_are_enough_for_every_operation(
    rights_server: EmbeddedValkey, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, tracking: Any
) -> None:
    set_intervals(monkeypatch, send=0.05)
    # Entries that another library wrote, so that scans and the completion of indexes have work.
    plain.set("agents:session:theirs:f", "x")
    plain.set("agents:llm:theirs", '{"response":"x","model":"m","storedAt":1}')
    options: dict[str, Any] = {"session": SessionOptions(exact_active=True)}
    options["coherence"] = CoherenceOptions(tracking=tracking)
    async with AgentCache.from_url(user_without(plain, rights_server), name=NAME, **options) as cache:
        outcomes = await run_all(cache)
        assert not [name for name, outcome in outcomes.items() if isinstance(outcome, Exception)]
        await until(lambda: plain.hget("agents:__stats", "tool:misses"))
        assert (await cache.kv.explain("k")).tracked
        await cache.session.set("t", "f", "x")
        await until(lambda: plain.exists("agents:__tc:active"))
    assert refusals(plain) == []


@pytest.mark.parametrize("right", [rule for rule in RULES if rule not in SELDOM])
async def test_missing_right_is_noticed_and_raises_no_other_error(
    rights_server: EmbeddedValkey,
    plain: valkey.Valkey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    right: str,
) -> None:
    """Each right is used, or the page would ask for too much. Without it an operation fails by a refusal at most."""
    set_intervals(monkeypatch, send=0.05)
    cache = AgentCache.from_url(user_without(plain, rights_server, right), name=NAME)
    try:
        await cache.open()
    except L2CommandError:
        assert right == "+ping"
    else:
        outcomes = await run_all(cache)
        assert {name: outcomes[name] for name in LOADS if isinstance(outcomes[name], Exception)} == {}
        await asyncio.sleep(0.1)  # The background worker sends the statistics.
    finally:
        await cache.aclose()
    assert refusals(plain) != []
    assert not [record for record in caplog.records if "defect" in record.message]
