"""The course of the demo: start everything, run the workers, add up the counts, and stop everything.

A signal cancels the one task that owns all processes. Every end of the demo, even one during the start, therefore runs
the same cleanup.
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

# Windows has no SIGHUP.
_SIGHUP = getattr(signal, "SIGHUP", None)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if _SIGHUP is None else (_SIGHUP,)))


class InterruptedDemoError(TierCacheError):
    """A signal ended the demo, and the demo has stopped everything that it had started."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class View(Protocol):
    """The display of the demo's progress."""

    def show(self, done: int, hits: int, saved: float) -> None:
        """Show the counts of all workers together; ``saved`` is in dollars."""

    def notice(self, text: str) -> None:
        """Keep a text that the user must read although the run succeeded."""


def run_demo(settings: DemoSettings, view: View) -> Summary:
    """Run the whole demo.

    Raises:
        InterruptedDemoError: The process received SIGINT, SIGTERM or SIGHUP.
        ChildEndedError: A worker or the endpoint ended early.
    """
    return asyncio.run(_until_signal(settings, view))


async def _until_signal(settings: DemoSettings, view: View) -> Summary:
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if not received:  # a second Ctrl-C must not disturb the cleanup
            received.append(number)
            loop.call_soon_threadsafe(lambda: work.cancel())

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] != signal.SIG_IGN or number != _SIGHUP:  # nohup ignores SIGHUP on purpose
            signal.signal(number, interrupt)
    # Behind the handlers: an eager task starts its first process before ``create_task`` returns.
    work = asyncio.create_task(_run(settings, view))
    await asyncio.wait([work])
    for number, handler in before.items():
        # After the first signal the process ends with the exit code of this signal: ignore all further signals.
        signal.signal(number, signal.SIG_IGN if received else handler or signal.SIG_DFL)
    if received:
        raise InterruptedDemoError(received[0])
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
            if error_output := await child.wait_ended():
                view.notice(f"{child.name} wrote to standard error:\n{error_output}")
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
    """Run a private Valkey and yield its URL.

    A thread starts and stops the server. The cleanup always waits for the start: a signal during the start must not
    leave a server that no process stops.
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
    """Wait until all workers are ready, start them together, and return the sum of their counts."""
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
        # If the endpoint ends, the workers fail too. The error must name the endpoint, which is the cause.
        await (watching if watching in done else working)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    return total
