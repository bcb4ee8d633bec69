"""What a design moves: rows, bytes of each trainer, and how stale the rows are that trainers read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bagpipe_hpc.protocol.plan import Float64Array, Int64Array

FLOAT_BYTES = 4
ID_BYTES = 8  # a row id, or a clock


@dataclass(frozen=True)
class Flow:
    """Bytes at the network link of each trainer in each iteration.

    Args:
        received, sent: float64, shape (num_iterations, T).
    """

    received: Float64Array
    sent: Float64Array

    @classmethod
    def none(cls, num_iterations: int, num_trainers: int) -> Flow:
        """Return a flow of no bytes."""
        return cls(*np.zeros((2, num_iterations, num_trainers)))

    def __add__(self, other: Flow) -> Flow:
        return Flow(self.received + other.received, self.sent + other.sent)

    @property
    def busiest(self) -> Float64Array:
        """Bytes of the busiest trainer in its busier direction, float64, shape (num_iterations,)."""
        busiest: Float64Array = np.maximum(self.received, self.sent).max(axis=1)
        return busiest

    @property
    def mean(self) -> float:
        """Bytes of a trainer and iteration, received and sent, on average."""
        return float((self.received + self.sent).mean())


@dataclass(frozen=True)
class Staleness:
    """How stale the rows are that trainers read, in updates of other trainers that a row lacks.

    Args:
        mean: Over all accesses.
        largest: The largest of them.
        mean_pending: Own updates that a trainer holds back, on average, when it sends them.
        largest_pending: The largest number of them.
        largest_lag: The largest number of updates that the server had, and a row that was read without a fetch had not.
    """

    mean: float = 0.0
    largest: int = 0
    mean_pending: float = 0.0
    largest_pending: int = 0
    largest_lag: int = 0


@dataclass(frozen=True)
class Traffic:
    """What a design moves over a whole stream.

    Args:
        design: Its name.
        num_pairs: Accesses: unique rows per trainer and batch.
        num_local: Accesses that found their row in the memory of the trainer, so no row travelled for them.
        rows_fetched: Rows that went from servers to trainers.
        rows_written: Rows, or gradients of rows, that went from trainers to servers.
        rows_exchanged: Rows that trainers received from each other, and gradients of rows that they sent each other.
        critical: Bytes that trainers wait for: they can travel neither before nor after the computing.
        late: The other bytes, which travel while trainers compute.
        server_bytes: Bytes of the busiest server in its busier direction, float64, shape (num_iterations,).
        servers_are_critical: Whether trainers wait for servers.
        rounds: How often in an iteration trainers wait for a message, one after the other.
        staleness: How stale the rows are that are read.
        cache_rows: The most rows that the cache of one trainer held; None: not counted.
        trainers_per_link: How many trainers share a link. Flows are those of links, shape (num_iterations, T /
            trainers_per_link).
    """

    design: str
    num_pairs: int
    num_local: int
    rows_fetched: int
    rows_written: int
    rows_exchanged: int
    critical: Flow
    late: Flow
    server_bytes: Float64Array
    servers_are_critical: bool
    rounds: int
    staleness: Staleness = field(default_factory=Staleness)
    cache_rows: int | None = None
    trainers_per_link: int = 1

    @property
    def rows_moved(self) -> int:
        """All rows and gradients of rows that travelled."""
        return self.rows_fetched + self.rows_written + self.rows_exchanged

    @property
    def local_ratio(self) -> float:
        """The hit ratio of trainers: the share of accesses that found their row in the memory of the trainer."""
        return self.num_local / self.num_pairs

    @property
    def bytes_per_trainer(self) -> float:
        """Bytes that a trainer receives and sends in an iteration, on average."""
        return (self.critical + self.late).mean / self.trainers_per_link


def ring_bytes(rows: Int64Array, row_bytes: int, num_trainers: int) -> Float64Array:
    """Return the bytes that each trainer receives, and sends, in an allreduce of so many rows over a ring."""
    return 2 * (num_trainers - 1) / num_trainers * row_bytes * rows.astype(np.float64)


def allreduce_rounds(num_trainers: int) -> int:
    """Return how often a trainer waits in an allreduce: up a binary tree and down again."""
    return 2 * int(np.ceil(np.log2(num_trainers)))


def everywhere(values: Float64Array, num_trainers: int) -> Flow:
    """Return the flow of trainers that all receive and send the same, float64, shape (num_iterations,)."""
    each = np.repeat(values[:, None].astype(np.float64), num_trainers, axis=1)
    return Flow(each, each)
