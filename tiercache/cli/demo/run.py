"""The course of the demo: start everything, let the workers run, add up, and leave nothing behind.

A signal is turned into a cancellation of the one task that owns all processes, so that every way out, also in the
middle of starting, leads through the same exits.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Protocol

from ...embedded import EmbeddedValkey
from ...errors import TierCacheError
from .children import Child, running
from .messages import GO, DemoSettings, EndpointDone, EndpointReady, EndpointSettings, Progress, WorkerSettings
from .summary import Summary, summarize
from .tally import Tally
from .workload import PAUSE, build_catalog, build_trace

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedDemoError(TierCacheError):
    """The demo was ended by a signal, and everything it had started has been stopped."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class View(Protocol):
    """Whoever shows how far the demo is."""

    def show(self, done: int, hits: int, saved: float) -> None:
        """Take the counts of all workers together, dollars in ``saved``."""

    def notice(self, text: str) -> None:
        """Take one line that is worth reading although the run went well."""


def run_demo(settings: DemoSettings, view: View) -> Summary:
    """Run the demo from its start to its end.

    Raises:
        InterruptedDemoError: SIGINT, SIGTERM or SIGHUP came.
        ChildEndedError: A worker or the endpoint ended early.
    """
    return asyncio.run(_until_signal(settings, view))


async def _until_signal(settings: DemoSettings, view: View) -> Summary:
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_run(settings, view))
    came: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if not came:  # an impatient second Ctrl-C does not disturb the clearing up
            came.append(number)
            loop.call_soon_threadsafe(work.cancel)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] != signal.SIG_IGN or number != signal.SIGHUP:  # nohup
            signal.signal(number, interrupt)
    await asyncio.wait([work])
    for number, handler in before.items():
        # After the first signal the process is on its way out, and says with which code.
        signal.signal(number, signal.SIG_IGN if came else handler or signal.SIG_DFL)
    if came:
        raise InterruptedDemoError(came[0])
    return work.result()


async def _run(settings: DemoSettings, view: View) -> Summary:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_embedded_valkey())
        endpoint = await stack.enter_async_context(
            running("The endpoint", "endpoint", EndpointSettings(settings.scale))
        )
        port = (await endpoint.receive(EndpointReady)).port
        workers = [
            await stack.enter_async_context(
                running(f"Worker {number + 1}", "worker", WorkerSettings(settings, number, url, port))
            )
            for number in range(settings.workers)
        ]
        tally = await _let_work(workers, endpoint, view)
        endpoint.end_input()
        served = await endpoint.receive(EndpointDone)
        for child in (*workers, endpoint):
            if said := await child.wait_ended():
                view.notice(f"{child.name} wrote to standard error:\n{said}")
    catalog_size = len(build_catalog())
    trace = build_trace(catalog_size, settings.requests, settings.seed, burst=settings.workers * settings.agents)
    return summarize(
        settings,
        tally,
        distinct_requests=len(set(trace)),
        endpoint_calls=served.completions,
        pause=PAUSE,
    )


@asynccontextmanager
async def _embedded_valkey() -> AsyncIterator[str]:
    """Run a private Valkey and give its URL.

    It is started and stopped in a thread, and the start is always waited for: a signal in the middle of it must not
    leave a server that nobody knows of.
    """
    server = EmbeddedValkey()
    start = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        await asyncio.shield(start)
        yield server.url
    finally:
        await asyncio.wait([start])
        await asyncio.to_thread(server.stop)


async def _let_work(workers: list[Child], endpoint: Child, view: View) -> Tally:
    """Wait until all workers are ready, send them off together, and return what they counted."""
    total = Tally()
    latest = [Progress() for _ in workers]

    async def follow(number: int) -> None:
        while (tally := latest[number].tally) is None:
            latest[number] = await workers[number].receive(Progress)
            view.show(sum(p.done for p in latest), sum(p.hits for p in latest), sum(p.saved for p in latest))
        total.add(tally)

    async def all_workers() -> None:
        for worker in workers:
            await worker.receive(Progress)
        for worker in workers:
            worker.send(GO)
        async with asyncio.TaskGroup() as group:
            for number in range(len(workers)):
                group.create_task(follow(number))

    working, watching = asyncio.create_task(all_workers()), asyncio.create_task(endpoint.fail_when_ended())
    try:
        done, _ = await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        # Without its endpoint a worker fails too: name the cause.
        await (watching if watching in done else working)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    return total
