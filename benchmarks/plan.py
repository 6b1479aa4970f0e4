"""What one round measures. The command writes it into the environment; every worker process reads it from
there.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field

from benchmarks.peers import PEERS, Endpoint, Work
from benchmarks.requests import SIZES, Size

VARIABLE = "TIERCACHE_BENCH_PLAN"

ONE_SIZE = frozenset({Work.STAMPEDE})
"""Works that are dominated by the callers and not by the size of the request: measured with the first size
only.
"""


@dataclass(frozen=True)
class Case:
    """One benchmark: a size, a work and a peer."""

    size: str
    work: Work
    peer: str

    @property
    def name(self) -> str:
        return f"{self.size}/{self.work.value}/{self.peer}"

    @classmethod
    def named(cls, name: str) -> "Case":
        size, work, peer = name.split("/")
        return cls(size, Work(work), peer)


@dataclass(frozen=True)
class Plan:
    """The cases of one round in their order, and where and how they run."""

    host: str
    port: int
    server_pid: int
    names: list[str]
    cores: list[int]
    """Cores of this machine; empty: nothing is pinned."""
    notes: str
    """File to which workers append what is no duration, one JSON object a line."""
    same_request: bool = False
    loops: dict[str, int] = field(default_factory=dict)
    """Calls per value as calibrated in the first round."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port)

    def environ(self) -> dict[str, str]:
        return os.environ | {VARIABLE: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_environ(cls) -> "Plan":
        return cls(**json.loads(os.environ[VARIABLE]))


def cases(sizes: list[Size], peers: list[str]) -> list[Case]:
    """All cases, peer after peer within one work, so that what is compared runs within seconds."""
    first = next(iter(SIZES.values()))
    return [
        Case(size.name, work, peer)
        for size in sizes
        for work in Work
        if size is first or work not in ONE_SIZE
        for peer in peers
        if work in PEERS[peer].works
    ]
