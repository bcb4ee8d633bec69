"""The caches of this package: the planner itself plans every iteration, and its plans are counted.

Each row is in the cache of one trainer, its owner, which pushes it to the other trainers that use it and gets their
gradients. All rows are rows of one table here: tables change the order in which the planner looks at keys, not what it
knows. `lookahead/planner.py` has the rules. A row that is forced out or has no next use in the window is written back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import Int64Array, IterationPlan
from bagpipe_hpc.simulation.accesses import Accesses
from bagpipe_hpc.simulation.stream import KeyStream
from bagpipe_hpc.simulation.traffic import Flow, Traffic

_FETCH, _WRITE, _CRITICAL_IN, _CRITICAL_OUT, _LATE_IN, _LATE_OUT = range(6)
CRITICAL_PUSHES, CRITICAL_GRADIENTS = [2, 3], [1, 2]  # Gray classes
EARLY_PUSHES, DELAYED_GRADIENTS = [0, 1], [0, 3]


def play_lookahead(
    stream: KeyStream,
    accesses: Accesses,
    *,
    window: int,
    prefetch_depth: int,
    cache_rows: int,
    num_servers: int,
    row_bytes: int,
    wire_bytes: int | None = None,
    trainers_per_node: int = 1,
    note: Callable[[int], None] = lambda planned: None,
) -> Traffic:
    """Return what the plans of a stream move.

    Args:
        stream: The stream.
        accesses: Its accesses.
        window: L.
        prefetch_depth: P.
        cache_rows: Slots of each trainer.
        num_servers: S; key k is on server k mod S.
        row_bytes: Bytes of a row.
        wire_bytes: Bytes of a row, or of its gradient, between trainers; None: row_bytes.
        trainers_per_node: How many trainers share a link. What they send each other does not pass it. T is a multiple.
        note: Is called with the number of iterations that are planned.
    Raises:
        CacheTooSmallError: the rows of the nearest iterations do not fit into the caches.
    """
    num_trainers, num_iterations = accesses.num_trainers, accesses.num_iterations
    planner = Planner(
        num_embeddings=(stream.num_keys,),
        num_trainers=num_trainers,
        num_servers=num_servers,
        window=window,
        prefetch_depth=min(prefetch_depth, window),
        cache_rows=min(cache_rows, 2 * stream.num_keys),  # slots come back an iteration late
        features=FeatureTables((0,), (0,)),
    )
    rows = np.zeros((6, num_iterations, num_trainers // trainers_per_node))
    server_rows, own_rows, fetched_by_users = np.zeros(num_iterations), 0, 0
    for i, plan in enumerate(planner.plans(_batches(stream, accesses))):
        note(i)
        rows[:, i] = _rows_of(plan, trainers_per_node)
        own_rows += int(plan.exchange.num_own.sum())
        fetched_by_users += int(plan.fetches.counts.sum())
        by_server = np.maximum(plan.fetches.counts.sum(axis=0), plan.write_backs.counts.sum(axis=0))
        server_rows[i] = by_server.max()
    bytes_of_rows = np.full(6, row_bytes if wire_bytes is None else wire_bytes)
    bytes_of_rows[[_FETCH, _WRITE]] = row_bytes
    moved = bytes_of_rows[:, None, None] * rows
    return Traffic(
        design="lookahead",
        num_pairs=len(accesses.pairs),
        num_local=max(0, own_rows - fetched_by_users),
        rows_fetched=int(rows[_FETCH].sum()),
        rows_written=int(rows[_WRITE].sum()),
        rows_exchanged=int((rows[_CRITICAL_IN] + rows[_LATE_IN]).sum()),
        critical=Flow(moved[_CRITICAL_IN], moved[_CRITICAL_OUT]),
        late=Flow(moved[_FETCH] + moved[_LATE_IN], moved[_WRITE] + moved[_LATE_OUT]),
        server_bytes=row_bytes * server_rows,
        servers_are_critical=False,
        rounds=2 if rows.shape[2] > 1 else 0,
        trainers_per_link=trainers_per_node,
    )


def _batches(stream: KeyStream, accesses: Accesses) -> Iterator[Batch]:
    """Yield the batches of the stream, with all ids of a sample in one bag."""
    first = 0
    for size in accesses.num_samples:
        sample_ends = stream.sample_ends[first : first + size + 1]
        ids = stream.keys[sample_ends[0] : sample_ends[-1]].astype(np.int64)
        labels, dense = np.zeros(size, np.float32), np.empty((size, 0), np.float32)
        yield Batch(labels, dense, np.empty((size, 0), np.int32), {"keys": Bags(sample_ends - sample_ends[0], ids)})
        first += size


def between_nodes(replica_counts: NDArray[Any], trainers_per_node: int) -> Int64Array:
    """Return the rows that nodes push to each other; what trainers of one node push to each other is not counted.

    Args:
        replica_counts: Rows by receiver, owner and Gray class, shape (T, T, 4).
        trainers_per_node: T is a multiple of it.
    Returns:
        The same of nodes, int64, shape (T / trainers_per_node, T / trainers_per_node, 4).
    """
    num_nodes = len(replica_counts) // trainers_per_node
    shape = num_nodes, trainers_per_node, num_nodes, trainers_per_node, -1
    counts: Int64Array = replica_counts.astype(np.int64).reshape(shape).sum(axis=(1, 3))
    if trainers_per_node > 1:
        counts[np.arange(num_nodes), np.arange(num_nodes)] = 0
    return counts


def _rows_of(plan: IterationPlan, trainers_per_node: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the rows that each node moves, by the constants above, int64, shape (6, T / trainers_per_node)."""
    replicas = between_nodes(plan.exchange.replica_counts, trainers_per_node)  # [receiver, owner, Gray class]
    critical_pushes, early_pushes = replicas[:, :, CRITICAL_PUSHES].sum(2), replicas[:, :, EARLY_PUSHES].sum(2)
    critical_back, delayed_back = replicas[:, :, CRITICAL_GRADIENTS].sum(2), replicas[:, :, DELAYED_GRADIENTS].sum(2)
    return np.stack(
        [
            plan.fetches.counts.sum(axis=1).reshape(-1, trainers_per_node).sum(axis=1),
            plan.write_backs.counts.sum(axis=1).reshape(-1, trainers_per_node).sum(axis=1),
            critical_pushes.sum(1) + critical_back.sum(0),
            critical_pushes.sum(0) + critical_back.sum(1),
            early_pushes.sum(1) + delayed_back.sum(0),
            early_pushes.sum(0) + delayed_back.sum(1),
        ]
    )
