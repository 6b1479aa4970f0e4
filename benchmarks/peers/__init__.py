"""The caches that are compared, a module each behind one small protocol.

Every cache has a new client with the default settings and the serialisation of its library, the same Valkey, lifetime,
requests and answers, and the telemetry it ships with. To add one: a module with a subclass of `Peer` or `Keyed`, and
its name here.
"""

from importlib import import_module

from benchmarks.peers.protocol import Endpoint, Keyed, Load, Peer, Setting

__all__ = ["PEERS", "Endpoint", "Keyed", "Load", "Peer", "Setting", "peer_class", "why_missing"]

PEERS = {  # module and class, in the order of the tables
    "tiercache": "tiercache:Tiercache",
    "tiercache_behind": "tiercache:Behind",
    "tiercache_uvloop": "tiercache:OnUvloop",
    "betterdb": "betterdb:Betterdb",
    "handmade": "handmade:Handmade",
    "cachetools": "memory:CachetoolsLock",
    "async_cache": "memory:AsyncCachePeer",
    "langchain_memory": "langchain:LangchainMemory",
    "langchain_redis": "langchain:LangchainRedis",
    "cashews": "cashews:CashewsRedis",
    "cashews_client_side": "cashews:CashewsClientSide",
    "aiocache_memory": "aiocache:AiocacheMemory",
    "aiocache_redis": "aiocache:AiocacheRedis",
    "coredis": "coredis:Coredis",
    "floor": "floor:Floor",
}


def peer_class(name: str) -> type[Peer]:
    """The class of the peer ``name``. Imports its library only now: no process pays for another peer's imports.

    Raises:
        ImportError: The library is not installed.
    """
    module, _, attribute = PEERS[name].partition(":")
    found: type[Peer] = getattr(import_module(f"benchmarks.peers.{module}"), attribute)
    return found


def why_missing(name: str) -> str:
    """Why the peer cannot be measured here; empty when it can."""
    try:
        return peer_class(name).missing()
    except ImportError as error:
        return str(error)
