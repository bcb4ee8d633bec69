"""What is counted: the unique rows of a batch, and the unique rows of a trainer's share of it.

A cache that the whole system shares is asked for each unique row of a batch once. A cache of one trainer is asked for
each unique row of the trainer's share once. These are the *entries* and the *pairs* of the planner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Float64Array, Int32Array, Int64Array
from bagpipe_hpc.sharding import share_boundaries
from bagpipe_hpc.simulation.stream import KeyStream

NEVER = -1  # the next use of a key that is not used again


@dataclass(frozen=True)
class Accesses:
    """The accesses of all iterations of a stream.

    Args:
        num_keys: Number of keys.
        num_trainers: T.
        entries: Unique keys of each batch, int32, shape (num_entries,), batch by batch.
        entry_ends: int64, shape (num_iterations + 1,).
        pairs: Unique keys of each share, int32, shape (num_pairs,), batch by batch, within a batch trainer by trainer.
        pair_ends: int64, shape (num_iterations * T + 1,).
        num_samples: Samples of each batch, int64, shape (num_iterations,).
        share_ends: Samples before each share, and all samples, int64, shape (num_iterations * T + 1,).
    """

    num_keys: int
    num_trainers: int
    entries: Int32Array
    entry_ends: Int64Array
    pairs: Int32Array
    pair_ends: Int64Array
    num_samples: Int64Array
    share_ends: Int64Array

    @property
    def num_iterations(self) -> int:
        """Number of batches."""
        return len(self.entry_ends) - 1

    @property
    def pair_counts(self) -> Int64Array:
        """Number of unique rows of each share, int64, shape (num_iterations, T)."""
        return np.diff(self.pair_ends).reshape(self.num_iterations, self.num_trainers)

    @property
    def iterations(self) -> Int32Array:
        """The iteration of each entry, int32, shape (num_entries,)."""
        return np.repeat(np.arange(self.num_iterations, dtype=np.int32), np.diff(self.entry_ends))

    def next_entries(self) -> Int32Array:
        """Return the entry of the next use of each entry's key; NEVER if there is none. int32, shape (num_entries,)."""
        following = np.empty(len(self.entries), dtype=np.int32)
        _follow(self.entries, np.full(self.num_keys, NEVER, dtype=np.int32), following)
        return following

    def users(self) -> tuple[Int32Array, Int32Array]:
        """Return how many trainers use each entry, and the last of them; both int32, shape (num_entries,)."""
        num_users, last_users = np.zeros((2, len(self.entries)), dtype=np.int32)
        places = np.empty(self.num_keys, dtype=np.int32)
        lists = self.entries, self.entry_ends, self.pairs, self.pair_ends, self.num_trainers
        _count_users(*lists, places, num_users, last_users)
        return num_users, last_users

    def busiest_owner(self, num_owners: int, chosen: NDArray[np.bool_] | None = None) -> Float64Array:
        """Return the pairs of the owner with the most of them, where key k belongs to owner k mod num_owners.

        Args:
            num_owners: Number of owners.
            chosen: Which keys count, bool, shape (num_keys,); None: all.
        Returns:
            float64, shape (num_iterations,).
        """
        counts = np.zeros((self.num_iterations, num_owners), dtype=np.int64)
        counted = np.ones(self.num_keys, dtype=np.bool_) if chosen is None else chosen
        _count_owners(self.pairs, self.pair_ends[:: self.num_trainers], counted, counts)
        busiest: Float64Array = counts.max(axis=1).astype(np.float64)
        return busiest


def accesses_of(stream: KeyStream, batch_size: int, num_trainers: int) -> Accesses:
    """Cut a stream into batches and shares; the last batch may be short.

    Args:
        stream: The stream.
        batch_size: Samples per batch, all trainers together.
        num_trainers: T.
    """
    batch_ends = np.append(np.arange(0, stream.num_samples, batch_size), stream.num_samples)
    num_full, rest = divmod(stream.num_samples, batch_size)
    full = np.asarray(share_boundaries(batch_size, num_trainers))
    share_ends = (batch_size * np.arange(num_full)[:, None] + full[:-1]).reshape(-1)
    last = np.asarray(share_boundaries(rest, num_trainers) if rest else [0])
    share_ends = np.concatenate([share_ends, stream.num_samples - rest + last])
    entries, entry_ends = _unique_of(stream, batch_ends)
    pairs, pair_ends = (entries, entry_ends) if num_trainers == 1 else _unique_of(stream, share_ends)
    return Accesses(
        stream.num_keys, num_trainers, entries, entry_ends, pairs, pair_ends, np.diff(batch_ends), share_ends
    )


def _unique_of(stream: KeyStream, part_ends: Int64Array) -> tuple[Int32Array, Int64Array]:
    """Return the unique keys of consecutive parts of the samples, and where those of each part end."""
    found = np.empty(len(stream.keys), dtype=np.int32)
    found_ends = np.zeros(len(part_ends), dtype=np.int64)
    parts = np.full(stream.num_keys, -1, dtype=np.int32)
    _list_unique(stream.keys, stream.sample_ends[part_ends], parts, found, found_ends)
    return found[: found_ends[-1]].copy(), found_ends


@compiled
def _list_unique(
    keys: Int32Array, id_ends: Int64Array, parts: Int32Array, found: Int32Array, found_ends: Int64Array
) -> None:
    """List the unique keys of each part in the order of their first occurrence; `parts` has each key's latest part."""
    count = 0
    for part in range(len(id_ends) - 1):
        for place in range(id_ends[part], id_ends[part + 1]):
            key = keys[place]
            if parts[key] != part:
                parts[key] = part
                found[count] = key
                count += 1
        found_ends[part + 1] = count


@compiled
def _follow(entries: Int32Array, latest: Int32Array, following: Int32Array) -> None:
    for entry in range(len(entries) - 1, -1, -1):
        following[entry] = latest[entries[entry]]
        latest[entries[entry]] = entry


@compiled
def _count_users(
    entries: Int32Array,
    entry_ends: Int64Array,
    pairs: Int32Array,
    pair_ends: Int64Array,
    num_trainers: int,
    places: Int32Array,
    num_users: Int32Array,
    last_users: Int32Array,
) -> None:
    for i in range(len(entry_ends) - 1):
        for entry in range(entry_ends[i], entry_ends[i + 1]):
            places[entries[entry]] = entry
        for t in range(num_trainers):
            share = i * num_trainers + t
            for pair in range(pair_ends[share], pair_ends[share + 1]):
                entry = places[pairs[pair]]
                num_users[entry] += 1
                last_users[entry] = t


@compiled
def _count_owners(
    pairs: Int32Array, iteration_ends: Int64Array, counted: NDArray[np.bool_], counts: Int64Array
) -> None:
    num_owners = counts.shape[1]
    for i in range(len(iteration_ends) - 1):
        for pair in range(iteration_ends[i], iteration_ends[i + 1]):
            counts[i, pairs[pair] % num_owners] += counted[pairs[pair]]
