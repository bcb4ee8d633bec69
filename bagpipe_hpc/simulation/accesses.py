"""What is counted: the unique rows of a batch, and the unique rows of a trainer's share of it.

A cache that the whole system shares is asked for each unique row of a batch once. A cache of one trainer is asked for
each unique row of the trainer's share once. These are the *entries* and the *pairs* of the planner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
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
    """

    num_keys: int
    num_trainers: int
    entries: Int32Array
    entry_ends: Int64Array
    pairs: Int32Array
    pair_ends: Int64Array
    num_samples: Int64Array

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

    def by_owner(self, num_owners: int) -> Int64Array:
        """Return how many pairs of each share have keys of each owner, where key k belongs to owner k mod num_owners.

        Returns:
            int64, shape (num_iterations, T, num_owners).
        """
        shape = self.num_iterations, self.num_trainers, num_owners
        counts = np.zeros(shape, dtype=np.int64)
        _count_owners(self.pairs, self.pair_ends, counts.reshape(-1, num_owners))
        return counts


def accesses_of(stream: KeyStream, batch_size: int, num_trainers: int) -> Accesses:
    """Cut a stream into batches and shares; the last batch may be short.

    Args:
        stream: The stream.
        batch_size: Samples per batch, all trainers together.
        num_trainers: T.
    """
    firsts = range(0, stream.num_samples, batch_size)
    sizes = [min(batch_size, stream.num_samples - first) for first in firsts]
    batch_ends = np.asarray([*firsts, stream.num_samples], dtype=np.int64)
    bounds = [first + np.asarray(share_boundaries(n, num_trainers)) for first, n in zip(firsts, sizes, strict=True)]
    share_ends = np.concatenate([*(each[:-1] for each in bounds), [stream.num_samples]]).astype(np.int64)
    entries, entry_ends = _unique_of(stream, batch_ends)
    pairs, pair_ends = (entries, entry_ends) if num_trainers == 1 else _unique_of(stream, share_ends)
    sample_counts = np.asarray(sizes, dtype=np.int64)
    return Accesses(stream.num_keys, num_trainers, entries, entry_ends, pairs, pair_ends, sample_counts)


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
def _count_owners(pairs: Int32Array, pair_ends: Int64Array, counts: Int64Array) -> None:
    num_owners = counts.shape[1]
    for share in range(len(pair_ends) - 1):
        for pair in range(pair_ends[share], pair_ends[share + 1]):
            counts[share, pairs[pair] % num_owners] += 1
