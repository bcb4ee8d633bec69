"""Extensions of the lookahead design, counted on the same stream with the same planner.

locality        samples go to the trainers that have their rows (`oracle.placement: locality`)
16-bit-wire     rows and gradients between trainers have 2 bytes per number (`training.wire_dtype`)
hot-replicas    rows that on average at least half of the trainers use are on every trainer, and their gradients are
                all-reduced; all other rows are cached and pushed as before. Loading the hot rows is not counted
shared-links    the trainers of a node share one link; what they send each other does not pass it
node-caches     the same nodes, but each has one cache: a row or a gradient passes the link once for the whole node,
                whatever the number of its trainers that use the row. Moves inside a node cost nothing

A job can do the first two and the fourth today.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.lookahead.locality import LocalityAssigner
from bagpipe_hpc.protocol.plan import ends
from bagpipe_hpc.sharding import share_boundaries
from bagpipe_hpc.simulation.accesses import Accesses, accesses_of
from bagpipe_hpc.simulation.stream import KeyStream
from bagpipe_hpc.simulation.traffic import Traffic, allreduce_rounds, everywhere, ring_bytes

HOT_SHARE = 0.5  # of the trainers that use a row in an iteration, from which on it is replicated


class PlayLookahead(Protocol):
    """`play_lookahead` with its settings."""

    def __call__(
        self,
        stream: KeyStream,
        accesses: Accesses,
        *,
        cache_rows: int = ...,
        wire_bytes: int | None = None,
        trainers_per_node: int = 1,
    ) -> Traffic:
        """Return what the plans of a stream move."""


def play_extension(
    stream: KeyStream,
    accesses: Accesses,
    batch_size: int,
    lookahead: PlayLookahead,
    row_bytes: int,
    cache_rows: int,
    name: str,
    trainers_per_node: int,
) -> Traffic:
    """Return what an extension moves.

    Args:
        stream: The stream.
        accesses: Its accesses.
        batch_size: Samples of a batch, all trainers together.
        lookahead: Plays the design that is extended.
        row_bytes: Bytes of a row.
        cache_rows: Slots of each trainer.
        name: Of the extension, see above.
        trainers_per_node: Trainers that share a link; T is a multiple of it.
    Raises:
        CacheTooSmallError: the rows of the nearest iterations do not fit into the caches.
    Communication: none.
    """
    num_trainers = accesses.num_trainers
    if name == "locality":
        local = by_locality(stream, batch_size, num_trainers)
        traffic = lookahead(local, accesses_of(local, batch_size, num_trainers))
    elif name == "16-bit-wire":
        traffic = lookahead(stream, accesses, wire_bytes=row_bytes // 2)
    elif name == "hot-replicas":
        traffic = _play_hot_replicas(stream, accesses, batch_size, lookahead, row_bytes)
    elif name == "shared-links":
        traffic = lookahead(stream, accesses, trainers_per_node=trainers_per_node)
    else:
        nodes = accesses_of(stream, batch_size, num_trainers // trainers_per_node)
        traffic = lookahead(stream, nodes, cache_rows=cache_rows * trainers_per_node)
        traffic = replace(traffic, trainers_per_link=trainers_per_node)
    return replace(traffic, design=name)


def by_locality(stream: KeyStream, batch_size: int, num_trainers: int) -> KeyStream:
    """Return the stream with the samples of each batch in the order in which trainers take them by locality."""
    if num_trainers == 1:
        return stream
    offsets = np.array([0, stream.num_keys], dtype=np.int64)
    rule = LocalityAssigner(num_trainers, offsets, FeatureTables((0,), (0,)))
    order = []
    for first in range(0, stream.num_samples, batch_size):
        stop = min(first + batch_size, stream.num_samples)
        sample_ends = stream.sample_ends[first : stop + 1]
        bags = Bags(sample_ends - sample_ends[0], stream.keys[sample_ends[0] : sample_ends[-1]].astype(np.int64))
        share_ends = np.asarray(share_boundaries(stop - first, num_trainers), dtype=np.int64)
        order.append(first + rule.order(np.empty((stop - first, 0), np.int32), share_ends, (bags,)))
    return _taken(stream, np.concatenate(order).astype(np.int64))


def _taken(stream: KeyStream, order: NDArray[np.int64]) -> KeyStream:
    """Return the stream with its samples in another order."""
    lengths = np.diff(stream.sample_ends)[order]
    sample_ends = ends(lengths)
    starts = np.repeat(stream.sample_ends[order] - sample_ends[:-1], lengths)
    return replace(stream, keys=stream.keys[starts + np.arange(len(stream.keys))], sample_ends=sample_ends)


def shared_by_most(accesses: Accesses) -> NDArray[np.bool_]:
    """Return which keys at least HOT_SHARE of the trainers use in an iteration, on average; bool, shape (num_keys,)."""
    num_users = np.bincount(accesses.pairs, minlength=accesses.num_keys) / accesses.num_iterations
    chosen: NDArray[np.bool_] = num_users >= max(2.0, HOT_SHARE * accesses.num_trainers)
    return chosen


def without_keys(stream: KeyStream, left_out: NDArray[np.bool_]) -> KeyStream:
    """Return the stream without the ids of some keys. Samples may become empty; keys keep their numbers."""
    stays = ~left_out[stream.keys]
    counts = np.concatenate([[0], np.cumsum(stays, dtype=np.int64)])
    return replace(stream, keys=stream.keys[stays], sample_ends=counts[stream.sample_ends])


def _play_hot_replicas(
    stream: KeyStream, accesses: Accesses, batch_size: int, lookahead: PlayLookahead, row_bytes: int
) -> Traffic:
    num_trainers, hot = accesses.num_trainers, shared_by_most(accesses)
    cold = without_keys(stream, hot)
    traffic = lookahead(cold, accesses_of(cold, batch_size, num_trainers))
    hot_entries = np.bincount(accesses.iterations[hot[accesses.entries]], minlength=accesses.num_iterations)
    summed = everywhere(ring_bytes(hot_entries, row_bytes, num_trainers), num_trainers)
    return replace(
        traffic,
        num_pairs=len(accesses.pairs),
        num_local=traffic.num_local + int(hot[accesses.pairs].sum()),
        rows_exchanged=traffic.rows_exchanged + 2 * (num_trainers - 1) * int(hot_entries.sum()),
        critical=traffic.critical + summed,
        rounds=1 + max(1, allreduce_rounds(num_trainers)) if hot.any() else traffic.rounds,
    )
