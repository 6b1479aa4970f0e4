"""TLS in front of the server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import trustme

from tiercache.embedded import EmbeddedValkey


@contextlib.asynccontextmanager
async def tls_in_front_of(server: EmbeddedValkey, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Yield a port on which ``server`` is reached through TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
        await asyncio.gather(passing(reader, inner_writer), passing(inner_reader, writer))
        for each in (writer, inner_writer):
            with contextlib.suppress(OSError):
                await each.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    if tasks:
        await asyncio.wait(tasks, timeout=5)
