"""How long an iteration takes, and what it waits for: a model of links, computing and planning.

Every host has one full-duplex link of a bandwidth; the links meet in a switch that is never the bottleneck. Ranks of
one host talk for free. With overlapped iterations (`lookahead.delayed_synchronisation`, P >= 1) an iteration takes the
longest of these times:

    trainers            compute + critical pushes + critical gradients + the part of the dense sum that backward does
                        not hide, each with the latency of its messages
    links of trainers   all bytes of the busiest host with a trainer, in its busier direction
    links of servers    the same of hosts with servers
    link of the oracle  the same of its host
    planning            the time of the oracle to make a plan

Without overlap, trainers also wait for what would travel meanwhile, and with P = 0 for fetches and write-backs.

Three properties of links are optional. A link with a token bucket passes some bytes at once after a pause
(`burst_bytes`); computing is the pause. Open MPI over TCP sends large messages between two hosts now in both directions
at once, now one after the other (`exchange_factor`). And some MPIs send as many bytes for a Get as they get
(`echoes_gets`), as Open MPI 5 does over TCP (docs/benchmarks.md, Moving rows). Contention of ranks for cores is not
modelled: compute has to be measured with as many trainers as a host has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bagpipe_hpc.protocol.plan import Float64Array
from bagpipe_hpc.simulation.planned_lookahead import (
    CRITICAL_GRADIENTS,
    CRITICAL_PUSHES,
    DELAYED_GRADIENTS,
    EARLY_PUSHES,
)
from bagpipe_hpc.sizing.workload import Workload
from bagpipe_hpc.transport.tree_sum import travels_whole

BUCKET_BYTES = 1 << 19  # of dense gradients: a sum starts when so many exist
BACKWARD_SHARE = 2 / 3  # of the time of computing
FETCH_MESSAGES = 3  # "ready", and a Get that goes there and back
WRITE_BACK_MESSAGES = 2  # a Put, and "written"
TRAINERS, TRAINER_LINKS, SERVER_LINKS, ORACLE_LINK, PLANNING = (
    "trainers",
    "links of trainers",
    "links of servers",
    "link of the oracle",
    "planning",
)


@dataclass(frozen=True)
class Links:
    """The links of the hosts, and which rank is on which host.

    Args:
        bytes_per_second: Of each host and direction.
        latency_seconds: Of a message.
        hosts: The number of the host of each rank: the oracle, the servers, the trainers.
        burst_bytes: What a link passes at once after a pause.
        exchange_factor: How many times as long messages take that two hosts send each other at the same time: from 1,
            both directions at once, to 2, one after the other.
        echoes_gets: Whether the request of a Get is as long as its answer.
    """

    bytes_per_second: float
    latency_seconds: float
    hosts: tuple[int, ...]
    burst_bytes: float = 0.0
    exchange_factor: float = 1.0
    echoes_gets: bool = False

    def seconds(self, sent: Float64Array, num_messages: int = 1) -> float:
        """Return how long a transfer takes.

        Args:
            sent: Bytes from rank i to rank j, float64, shape (n, n).
            num_messages: How many messages follow one another.
        """
        busiest = float(self.loads(sent).max())
        return busiest / self.bytes_per_second + num_messages * self.latency_seconds if busiest else 0.0

    @property
    def burst_seconds(self) -> float:
        """What a burst saves."""
        return self.burst_bytes / self.bytes_per_second

    def loads(self, sent: Float64Array) -> Float64Array:
        """Return the bytes of each host in its busier direction, float64, shape (num_hosts,)."""
        hosts = np.asarray(self.hosts)
        is_on = (hosts[:, None] == np.arange(hosts.max() + 1)).astype(np.float64)  # [rank, host]
        between = is_on.T @ sent @ is_on
        np.fill_diagonal(between, 0.0)
        loads: Float64Array = np.maximum(between.sum(axis=0), between.sum(axis=1))
        return loads


@dataclass(frozen=True)
class TrainerCost:
    """What a trainer does besides moving rows.

    Args:
        compute_seconds: Forward and backward pass over its samples, with all work on rows, per iteration.
        dense_bytes: Of the dense gradients.
        row_bytes: Of a row between a server and a trainer.
        wire_bytes: Of a row, or its gradient, between trainers.
        is_overlapped: Whether neighbouring iterations overlap.
        oracle_speedup: How many times as fast the oracle's threads plan together as one thread.
    """

    compute_seconds: float
    dense_bytes: float
    row_bytes: int
    wire_bytes: int
    is_overlapped: bool = True
    oracle_speedup: float = 1.0


@dataclass(frozen=True)
class Bytes:
    """Bytes of an iteration by path: [i, j] from rank i to rank j, float64, shape (n, n) each."""

    plans: Float64Array
    fetches: Float64Array
    write_backs: Float64Array
    critical_pushes: Float64Array
    early_pushes: Float64Array
    critical_gradients: Float64Array
    delayed_gradients: Float64Array
    dense: Float64Array

    @property
    def total(self) -> Float64Array:
        """All of them, float64, shape (n, n)."""
        total: Float64Array = np.sum(list(vars(self).values()), axis=0)
        return total

    def by_path(self) -> dict[str, float]:
        """Return the bytes of all ranks together by path."""
        return {name: float(sent.sum()) for name, sent in vars(self).items()}


@dataclass(frozen=True)
class IterationCost:
    """The predicted time of an iteration.

    Args:
        seconds: The time.
        seconds_by_resource: What an iteration would take if nothing else took longer.
        seconds_by_wait: The parts of the time of trainers.
        moved: Bytes by path.
    """

    seconds: float
    seconds_by_resource: dict[str, float]
    seconds_by_wait: dict[str, float]
    moved: dict[str, float] = field(default_factory=dict)

    @property
    def bottlenecks(self) -> tuple[str, str]:
        """What takes longest, and what would take longest without it."""
        first, second, *_ = sorted(self.seconds_by_resource.items(), key=lambda each: -each[1])
        return self._named(first[0]), self._named(second[0])

    def _named(self, resource: str) -> str:
        if resource != TRAINERS:
            return resource
        return max(self.seconds_by_wait.items(), key=lambda each: each[1])[0]


def bytes_of(workload: Workload, cost: TrainerCost, iterations: slice | None = None) -> Bytes:
    """Return the mean bytes of an iteration by path.

    Args:
        workload: What ranks move.
        cost: Sizes of rows and dense gradients.
        iterations: The iterations to look at; None: the steady ones.
    """
    chosen = workload.steady if iterations is None else iterations
    num_servers, num_trainers = workload.choice.num_servers, workload.choice.num_trainers
    servers, trainers = slice(1, 1 + num_servers), slice(1 + num_servers, None)
    size = 1 + num_servers + num_trainers

    def between(senders: slice, receivers: slice, sent: Float64Array) -> Float64Array:
        matrix = np.zeros((size, size))
        matrix[senders, receivers] = sent
        return matrix

    pushed = cost.wire_bytes * workload.pushed[chosen].mean(axis=0)  # [receiver, owner, Gray class]
    dense = dense_bytes_between(cost.dense_bytes, num_trainers)
    return Bytes(
        plans=between(slice(0, 1), slice(1, None), workload.plan_bytes[chosen].mean(axis=0)[None]),
        fetches=between(servers, trainers, cost.row_bytes * workload.fetched[chosen].mean(axis=0).T),
        write_backs=between(trainers, servers, cost.row_bytes * workload.written_back[chosen].mean(axis=0)),
        critical_pushes=between(trainers, trainers, pushed[:, :, CRITICAL_PUSHES].sum(axis=2).T),
        early_pushes=between(trainers, trainers, pushed[:, :, EARLY_PUSHES].sum(axis=2).T),
        critical_gradients=between(trainers, trainers, pushed[:, :, CRITICAL_GRADIENTS].sum(axis=2)),
        delayed_gradients=between(trainers, trainers, pushed[:, :, DELAYED_GRADIENTS].sum(axis=2)),
        dense=between(trainers, trainers, dense),
    )


def dense_bytes_between(dense_bytes: float, num_trainers: int) -> Float64Array:
    """Return the bytes that each trainer sends to each other one in a dense sum, float64, shape (T, T).

    With two trainers, or few bytes, each sends its whole buffer to every other one. Else each gets its segment from
    all others and sends them the sum (`transport/mpi_sum.py`).
    """
    each = dense_bytes if travels_whole(int(dense_bytes) // 4, num_trainers) else 2 * dense_bytes / num_trainers
    return each * (1 - np.eye(num_trainers))


def cost_of(workload: Workload, cost: TrainerCost, links: Links, iterations: slice | None = None) -> IterationCost:
    """Predict the time of an iteration.

    Args:
        workload: What ranks move.
        cost: What a trainer does besides.
        links: The links.
        iterations: The iterations to look at; None: the steady ones.
    """
    choice, moved = workload.choice, bytes_of(workload, cost, iterations)
    waits = _waits(moved, cost, links, choice.prefetch_depth)
    requests = moved.fetches.T if links.echoes_gets else 0.0
    loads = links.loads(moved.total + requests) / links.bytes_per_second
    last_server = 1 + choice.num_servers
    by_resource = {
        TRAINERS: sum(waits.values()),
        TRAINER_LINKS: _busiest(loads, links.hosts[last_server:]),
        SERVER_LINKS: _busiest(loads, links.hosts[1:last_server]),
        ORACLE_LINK: _busiest(loads, links.hosts[:1]),
        PLANNING: workload.oracle_seconds / cost.oracle_speedup,
    }
    return IterationCost(max(by_resource.values()), by_resource, waits, moved.by_path())


def _busiest(loads: Float64Array, hosts: Sequence[int]) -> float:
    return float(max(loads[host] for host in hosts))


def _waits(moved: Bytes, cost: TrainerCost, links: Links, prefetch_depth: int) -> dict[str, float]:
    """Return what the main thread of a trainer does one after the other, in seconds."""
    is_overlapped = cost.is_overlapped and prefetch_depth >= 1
    late = 0 if is_overlapped else 1
    dense = links.seconds(moved.dense)
    last_bucket = dense * min(1.0, BUCKET_BYTES / cost.dense_bytes) if cost.dense_bytes else 0.0
    exchange = {
        "pushes": links.seconds(moved.critical_pushes + late * moved.early_pushes),
        "gradients of rows": links.seconds(moved.critical_gradients + late * moved.delayed_gradients),
        "dense sum": max(last_bucket, dense - BACKWARD_SHARE * cost.compute_seconds),
    }
    rows = {}
    if not is_overlapped:
        rows["write-backs"] = links.seconds(moved.write_backs, WRITE_BACK_MESSAGES)
    if prefetch_depth == 0:
        passes = 2 if links.echoes_gets else 1
        rows["fetches"] = links.seconds(passes * moved.fetches, FETCH_MESSAGES)
    exchange = {name: links.exchange_factor * each for name, each in _less(exchange, links.burst_seconds).items()}
    return {"computing": cost.compute_seconds, **exchange, **_less(rows, links.burst_seconds)}


def _less(waits: dict[str, float], saved: float) -> dict[str, float]:
    """Return waits that together are shorter by what a burst saves, each in proportion."""
    total = sum(waits.values())
    return {name: seconds * max(0.0, 1 - saved / total) if total else 0.0 for name, seconds in waits.items()}
