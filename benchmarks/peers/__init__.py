"""The caches that are compared, a module each behind one small protocol, and what each does for each work.

| peer | L1 hit | L2 hit | miss + store | 1,000 misses |
|---|---|---|---|---|
| tiercache | `check` | `check`, L1 off | `check`, `store` | `get_or_load` |
| betterdb-agent-cache | `check` (reads Valkey) | `check` | `check`, `store` | check, load, store by each |
| async-cache | `get` | - | - | `get(key, loader=)` |
| cashews | `get`, client-side | `get`, plain Redis | `get`, `set`, client-side | `@cache`, client-side |
| aiocache | `get`, MEMORY | `get`, REDIS | `get`, `set`, REDIS | `cached_stampede`, REDIS |
| hand-made | OrderedDict | `GET` of JSON | `GET`, `SET`, OrderedDict | check, load, store by each |
| floor | dict, ready key | `GET`, ready key | `GET`, `SET`, ready bytes | all await one task |

Every cache has a new client with the default settings of its library, the same Valkey, TTL, requests and
answers, and the telemetry it ships with. "miss + store" is the lookup that misses and then the store, until
Valkey has acknowledged it; a cache with two levels fills both. async-cache, cashews, aiocache and the
hand-made cache get `request_key(params)` as the key, inside the measured call, because their users have to
compute it there; tiercache and betterdb-agent-cache make their own. The floor does less than a cache: it says
what the machine and the client cost. "-" is a work that the cache does not offer.
"""

from importlib import import_module

from benchmarks.peers.protocol import Endpoint, Loader, Peer, PeerInfo, Work

__all__ = ["PEERS", "Endpoint", "Loader", "Peer", "PeerInfo", "Work", "make_peer"]

PEERS = {  # in the order of the tables
    "tiercache": PeerInfo("tiercache"),
    "betterdb": PeerInfo("betterdb-agent-cache", has_l1=False, single_flight=False),
    "async_cache": PeerInfo("async-cache", has_l2=False, works=frozenset({Work.L1_HIT, Work.STAMPEDE})),
    "cashews": PeerInfo("cashews"),
    "aiocache": PeerInfo("aiocache"),
    "handmade": PeerInfo("OrderedDict + sha256(json)", single_flight=False),
    "floor": PeerInfo("floor: bare dict, GET, SET, task", is_cache=False),
}


def make_peer(name: str) -> Peer:
    """The peer called ``name``. Imports its library only now: no worker process pays for another peer's
    imports.
    """
    peer: Peer = import_module(f"benchmarks.peers.{name}").make()
    return peer
