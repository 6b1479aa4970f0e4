"""State: values that their tier changes by commands of its own, and whose loss is an error.

The other tiers write by SET and DEL. State is written by scripts (``Run``), surrounded by the same ``Change``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..call import Call, Loaded
from ..engine import Engine
from ..entries.entry import Entry, Group
from ..level2.announcement import Announcement
from ..level2.queued_write import ignore_outcome
from ..level2.replies import send
from ..level2.writes import Announce, Command, Run, Write
from ..memory.fences import Fence
from .change import GroupChange, KeyChange
from .store import store_change

__all__ = ["StateCommands"]


class StateCommands:
    """The commands that a tier of state sends to Valkey. The cache must have a Valkey."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ask(self, command: Command) -> Any:
        """Return the reply to a command that bypasses the write pipe: it may overtake queued writes.

        Raises:
            L2UnavailableError: No answer, also while the breaker is open.
            L2CommandError: Valkey refused.
        """
        (reply,) = await self.ask_all([command])
        return reply

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that are sent together, in one exchange. Otherwise as ``ask``."""
        runtime = await self._engine.open()
        level2 = runtime.l2.level2
        assert level2 is not None, "only a cache with a Valkey sends commands"
        runtime.breaker.check_allowed()
        return await send(level2, commands)

    async def run(self, command: Command) -> Any:
        """Return the reply to a command that takes its turn in the write pipe. Errors as for ``WritePipe.write``."""
        runtime = await self._engine.open()
        return await runtime.l2.pipe.submit(Run(command))

    async def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that are sent together, in one exchange, once the write pipe has room.

        Errors as for ``change``. Some of the commands may be done.
        """
        runtime = await self._engine.open()
        pipe = runtime.l2.pipe
        runs = [Run(command) for command in commands]
        await pipe.wait_room(sum(run.size_bytes for run in runs))
        replies: list[Any] = await pipe.write_all([(run, ignore_outcome) for run in runs])
        return replies

    async def store(self, call: Call, loaded: Loaded, command: Command) -> None:
        """Store a value as ``Stores.store`` does, behind ``command`` in the same batch."""
        runtime = await self._engine.open()
        pipe = runtime.l2.pipe
        await pipe.wait_room(len(call.key) + len(loaded.data))
        change = store_change(call, loaded, runtime)
        change.begin()
        # The value follows by a plain command: the server would report a script's write to this process too.
        await pipe.write_all([(Run(command), ignore_outcome), (change.write, change.done)])

    async def change(self, key: str, command: Command) -> Any:
        """Return the reply to a command that changes the value of ``key``. L1 drops the key before and after.

        Raises:
            L2UnavailableError: The change may or may not have happened.
            L2CommandError: Valkey refused the change.
        """
        runtime = await self._engine.open()
        change = KeyChange(runtime, key)
        change.begin()
        return await runtime.l2.pipe.submit(Run(command, (key,), announced=True), change.done)

    async def change_group(self, group: Group, commands: Sequence[Command], *, announced: bool = True) -> list[Any]:
        """Return the replies to commands that change keys of ``group``, sent together. L1 drops the group twice.

        Args:
            announced: Whether an announcement to the other processes follows the commands.

        Raises:
            L2UnavailableError, L2CommandError: As for ``change``. Some of the commands may be done.
        """
        runtime = await self._engine.open()
        writes: list[Write] = [*map(Run, commands)]
        if announced:
            writes.append(Announce(Announcement(groups=(group,))))
        change = GroupChange(runtime, group)
        pipe = runtime.l2.pipe
        replies: list[Any] = await change.run(lambda: pipe.write_all([(write, ignore_outcome) for write in writes]))
        return replies[: len(commands)]

    async def fill(self, call: Call, fence: Fence, entry: Entry, command: Command) -> bool:
        """Store a loaded value by ``command``, which replies 0 if it did not; return whether the value is stored.

        Errors as for ``change``; the loaded value is then stored nowhere.
        """
        runtime = await self._engine.open()
        # No await from here until the command is queued: a change comes either before this step (and nothing is stored)
        # or after it (and its write is queued behind this one).
        stored = False
        runtime.l1.settle()  # A change by the other face may have broken the fence.
        if fence.holds and not runtime.fences.is_barred(fence):
            runtime.fences.overtake(fence)

            def keep(outcome: Any) -> None:
                nonlocal stored
                stored = not isinstance(outcome, Exception) and outcome != 0
                if stored and call.rules.l1 and runtime.fences.allow(fence):
                    runtime.l1.put(fence.key, entry)

            await runtime.l2.pipe.submit(Run(command, (fence.key,), announced=True), keep)
        if not stored:
            call.counters.overtaken += 1
        return stored

    def renew(self, command: Command, on_done: Callable[[Any], object]) -> bool:
        """Queue a command without waiting for its reply; return False if it was dropped.

        The command is dropped while Valkey is unavailable or the write queue is full.
        """
        runtime = self._engine.runtime
        if runtime is None or runtime.breaker.is_open:
            return False
        return runtime.l2.pipe.fill(Run(command), on_done)
