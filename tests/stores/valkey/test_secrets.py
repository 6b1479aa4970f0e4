"""Secrets: no part of a password in an error, its chained errors and its traceback, in a log line or in a repr."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import AsyncIterator

import pytest
import valkey.asyncio

from tiercache import AgentCache, L2CommandError, TierCacheError, UsageError
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.testing import ChaosProxy

# Each URL has the parts "hunter" and "4711" of a password in a place where a parser may quote it.
URLS = [
    "valkey://localhost?socket_timeout=hunter4711",
    "valkey://localhost?db=hunter4711",
    "valkey://localhost?max_connections=hunter4711",
    "valkey://localhost?health_check_interval=hunter4711",
    "valkey://localhost?timeout=hunter4711",
    "valkeys://localhost?ssl_cert_reqs=hunter4711",
    "valkey://localhost?hunter4711=1",
    "valkey://localhost?hunter4711",
    "valkey://me:hunter/4711@localhost:6379/0",
    "valkey://me:4711/hunter@localhost:6379/0",
    "valkey://me:4711?hunter@localhost:6379/0",
    "valkey://me:4711?hunter=x@localhost:6379/0",
    "valkey://me:4711#hunter@localhost:6379/0",
    "valkey://me:hunter@localhost:4711hunter",
    "valkey://me:hunter4711@[localhost",
    "valkey://me:hunter\uff0f4711@localhost",  # A character that is a slash after normalisation.
    "hunter4711://localhost",
    "valkey://:hunter4711@localhost:99999",
]


def assert_hidden(error: BaseException) -> None:
    """Fail if ``error``, an error chained to it, or the traceback shows a part of the password."""
    seen: list[BaseException | None] = [error]
    while (last := seen[-1]) is not None:
        for text in (str(last), repr(last.args), repr(vars(last))):
            assert not re.search("hunter|4711", text)
        seen.append(last.__cause__ or last.__context__)
    shown = "".join(traceback.format_exception(error))
    assert not re.search("hunter|4711", shown)


@pytest.mark.parametrize("number", range(len(URLS)))
def test_url_is_refused_without_a_part_of_its_password(number: int) -> None:
    with pytest.raises(UsageError) as caught:
        AgentCache.from_url(URLS[number])
    assert_hidden(caught.value)
    with pytest.raises(UsageError) as caught:
        ChaosProxy("valkey://me:" + URLS[number].partition("//")[2])
    assert_hidden(caught.value)


@pytest.mark.parametrize("option", ["port", "ssl_cert_reqs", "hunter4711"])
def test_client_is_refused_without_the_values_of_its_options(option: str) -> None:
    secret = "hunter" + "4711"
    client = valkey.asyncio.Valkey(ssl=option.startswith("ssl"))
    client.connection_pool.connection_kwargs[option] = secret
    with pytest.raises(UsageError) as caught:
        Settings.from_client(client)
    assert_hidden(caught.value)
    assert option in str(caught.value) or option == secret


def test_url_with_a_wrong_option_is_refused_with_the_name_of_the_option() -> None:
    with pytest.raises(UsageError, match="socket_timeout"):
        AgentCache.from_url(URLS[0])
    with pytest.raises(UsageError, match="health_check_interval"):
        AgentCache.from_url(URLS[3])


def test_settings_show_no_credentials() -> None:
    settings = Settings.from_client(client_from_url("valkey://user:hunter4711@localhost"))
    assert "hunter" not in repr(settings) + str(settings)


@pytest.fixture
async def old_server() -> AsyncIterator[str]:
    """Return the address of a server that does not know AUTH, and repeats the arguments of the command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"-ERR unknown command 'AUTH', with args beginning with: 'me' 'hunter4711' \r\n")
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


async def test_failed_login_shows_no_credentials(old_server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    cache = AgentCache.from_url("valkey://me:hunter" + f"4711@{old_server}")
    with pytest.raises(TierCacheError) as caught:
        await cache.open()
    assert_hidden(caught.value)
    assert "hunter" not in caplog.text
    await cache.aclose()


async def test_refused_login_shows_no_credentials(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    cache = AgentCache.from_url(f"{url}?username=me&password=hunter" + "4711")
    with pytest.raises(L2CommandError) as caught:
        await cache.open()
    assert_hidden(caught.value)
    assert "hunter" not in caplog.text
    await cache.aclose()
