"""State: values that are changed by commands of their tier's own, and whose loss is an error.

Another part of ``Engine``, whose helpers it uses: what the engine does around a SET or DEL, this does around a ``Run``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import L2UnavailableError
from ..call import Call, Loaded
from ..engine import Engine
from ..entries.entry import Entry, Group
from ..level2.announcement import Announcement
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce, Command, Run, Write
from ..memory.fences import Fence
from ..runtime.runtime import Runtime
from .store import storing

__all__ = ["ask", "change", "change_group", "fill", "renew", "run", "store"]


async def ask(runtime: Runtime, command: Command) -> Any:
    """Return the reply to a command that is not sent through the write pipe: it may overtake queued writes.

    Raises:
        L2UnavailableError: No answer, also while the breaker is open.
        L2CommandError: Valkey refused.
    """
    if runtime.level2 is None or not runtime.breaker.allows():
        raise L2UnavailableError("Valkey is not asked at the moment, because it did not answer just now")
    (reply,) = await runtime.level2.execute([command])
    if isinstance(reply, Exception):
        raise reply
    return reply


async def run(runtime: Runtime, command: Command) -> Any:
    """Return the reply to a command that waits for its turn among the writes. Errors as for ``WritePipe.write``."""
    return await _pipe(runtime).run(Run(command))


async def store(engine: Engine, request: Call, fresh: Loaded, command: Command) -> None:
    """As ``Engine.store``, behind ``command``."""
    runtime = await engine.open()
    pipe = _pipe(runtime)
    await pipe.wait_room(len(request.key) + len(fresh.data))
    write, keep = storing(engine, runtime, request, fresh)
    # The value by a plain command behind it: what a script writes, the server tells this process of too.
    await pipe.write_all([(Run(command), lambda _: None), (write, keep)])


async def change(engine: Engine, key: str, command: Command) -> Any:
    """Send a command that changes what ``key`` holds; return its reply. L1 forgets the key before and after.

    Raises:
        L2UnavailableError: It may or may not have happened.
        L2CommandError: Valkey refused it.
    """
    runtime = await engine.open()
    pipe = _pipe(runtime)
    engine.l1.drop(key)
    fence = runtime.fences.open_for_write(key)
    return await pipe.run(Run(command, (key,), announced=True), lambda _: engine.written(runtime, fence))


async def change_group(
    engine: Engine, group: Group, commands: Sequence[Command], *, announced: bool = True
) -> list[Any]:
    """As ``change``, for commands that change keys of ``group``, sent together. Some may be done although it raises.

    Args:
        announced: Whether the other processes are told, behind them.
    """
    runtime = await engine.open()

    def drop() -> None:
        runtime.fences.break_group(group)
        engine.l1.drop_group(group)

    drop()
    writes: list[Write] = [*map(Run, commands)]
    if announced:
        writes.append(Announce(Announcement(groups=(group,))))
    if not writes:
        return []
    pipe = _pipe(runtime)
    try:
        replies: list[Any] = await pipe.write_all([(write, lambda _: None) for write in writes])
    finally:
        # For the reason given in ``Engine.written``.
        drop()
    return replies[: len(commands)]


async def fill(engine: Engine, runtime: Runtime, request: Call, fence: Fence, entry: Entry, command: Command) -> bool:
    """Store what was loaded under ``fence`` by ``command``, which replies 0 if it did not; return whether it is stored.

    Errors as for ``change``; the loaded value is then nowhere.
    """
    # No await before the command is queued: a change comes either before (and nothing is stored) or after (and is
    # queued behind it).
    stored = False
    if fence.holds and not runtime.fences.is_barred(fence):
        runtime.fences.overtake(fence)

        def keep(outcome: Any) -> None:
            nonlocal stored
            stored = not isinstance(outcome, Exception) and outcome != 0
            if stored and request.policy.l1 and engine.may_keep(runtime, fence):
                engine.l1.put(fence.key, entry)

        await _pipe(runtime).run(Run(command, (fence.key,), announced=True), keep)
    if not stored:
        request.counters.overtaken += 1
    return stored


def renew(engine: Engine, command: Command, on_done: Callable[[Any], object]) -> bool:
    """Queue a command that nobody waits for; return False, having dropped it, where it would not get through now."""
    runtime = engine.runtime
    if runtime is None or runtime.pipe is None or runtime.breaker.is_open:
        return False
    return runtime.pipe.fill(Run(command), on_done)


def _pipe(runtime: Runtime) -> WritePipe:
    if runtime.pipe is None:
        raise L2UnavailableError("the cache has no Valkey")
    return runtime.pipe
