"""The caches that are compared, one module per library, all behind one small protocol.

Every cache gets a new client with the default settings, the serialisation and the telemetry of its library, and the
same Valkey, lifetime, requests and answers. To add a cache, write a module with a subclass of `Peer` or `Keyed`, and
add its name here.
"""

from importlib import import_module

from benchmarks.peers.protocol import Endpoint, Keyed, Load, Peer, Setting

__all__ = ["PEERS", "Endpoint", "Keyed", "Load", "Peer", "Setting", "peer_class", "why_missing"]

PEERS = {  # module and class, in the order of the tables
    "tiercache": "tiercache:Tiercache",
    "tiercache_behind": "tiercache:WriteBehind",
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
    "sdk": "sdk:Sdk",
}


def peer_class(name: str) -> type[Peer]:
    """Return the class of the peer ``name``.

    Its library is imported only here, so that no process pays for the imports of other peers.

    Raises:
        ImportError: The library is not installed.
    """
    module, _, attribute = PEERS[name].partition(":")
    found: type[Peer] = getattr(import_module(f"benchmarks.peers.{module}"), attribute)
    return found


def why_missing(name: str) -> str:
    """Return why the peer cannot be measured here, or an empty text if it can."""
    try:
        return peer_class(name).missing()
    except ImportError as error:
        return str(error)
