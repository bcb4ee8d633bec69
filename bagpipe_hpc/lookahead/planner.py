"""The planner: batches in, iteration plans out (paper section 3.2).

Plan i is emitted once iterations i..i+L have entered the lookahead window (or the stream has ended). Per iteration:

1. `next_use.enter_batch`   the batch of i+L enters: unique keys, their next uses;
2. `residency.place`        owners, slots and forced evictions for i, then who leaves after i;
3. `lists`                  the order of rows at every trainer; pushes, fetches, write-backs;
4. here                     stage positions in the servers' rings, and everything cut into per-rank plans.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.lookahead.lists import ExchangeLists, TransferLists, exchange_lists, transfer_lists
from bagpipe_hpc.lookahead.next_use import MAX_STAMP, EnteredBatch, EntryRing, enter_batch, new_key_state
from bagpipe_hpc.lookahead.plan import Float32Array, Int32Array, Int64Array, IterationPlan, ServerPlan, TrainerPlan
from bagpipe_hpc.lookahead.residency import Residency
from bagpipe_hpc.sharding import share_boundaries

MIN_RING_ROWS = 1024


@dataclass(frozen=True)
class KeyBatch:
    """One global batch as the planner sees it: every sample has the same number of keys.

    Args:
        keys: int64, shape (num_samples * ids_per_sample,), sample by sample; key = table offset + row id.
        labels: float32, shape (num_samples,).
        dense: float32, shape (num_samples, num_dense).
        read_only: Evaluation: rows are read, never updated.
    """

    keys: Int64Array
    labels: Float32Array
    dense: Float32Array
    read_only: bool = False


@dataclass(frozen=True)
class _Pending:
    """A batch inside the window."""

    batch: KeyBatch  # without its keys: they are in the entry ring now
    shares: Int64Array  # (T + 1,) sample positions
    id_ends: Int64Array  # (T + 1,) id positions
    entered: EnteredBatch


class StageRing:
    """Rows of one ring slot of the servers' stage windows, in one direction; grows by doubling, never shrinks."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.rows = MIN_RING_ROWS

    def offsets(self, iteration: int, counts: Int64Array) -> Int64Array:
        """First row of each (trainer, server) stage: all stages of an iteration packed into its ring slot.

        Args:
            counts: int64, shape (T, S).
        Returns:
            int64, shape (T, S).
        """
        while self.rows < counts.sum(axis=0).max():
            self.rows *= 2
        packed = np.cumsum(counts, axis=0) - counts
        return (iteration % self.num_slots) * self.rows + packed


class Planner:
    """Turns the batch stream into the stream of iteration plans.

    Args:
        num_keys: Rows of all tables together.
        num_trainers: T.
        num_servers: S.
        window: Lookahead window L; 0 plans the synchronous baseline: every row fetched and written back each iteration.
        prefetch_depth: P <= L: how many iterations ahead rows travel.
        cache_rows: Slots per trainer.
    Raises:
        ConfigError: P > L.
    Communication: none.
    """

    def __init__(
        self, *, num_keys: int, num_trainers: int, num_servers: int, window: int, prefetch_depth: int, cache_rows: int
    ) -> None:
        if not 0 <= prefetch_depth <= window:
            raise ConfigError(
                f"lookahead.prefetch_depth is {prefetch_depth}; it must lie between 0 and lookahead.window ({window})"
            )
        self.num_trainers = num_trainers
        self.num_servers = num_servers
        self.window = window
        self._key_state = new_key_state(num_keys)
        self._ring = EntryRing(ring_size=window + 1, capacity=0)
        self._residency = Residency(num_trainers, cache_rows, prefetch_depth, ring_size=window + 1)
        self._pending: deque[_Pending] = deque()
        self._num_entered = 0
        self._num_emitted = 0
        self._previous_updated = False
        self._fetch_ring = StageRing(prefetch_depth + 1)
        self._write_back_ring = StageRing(prefetch_depth + 1)

    def plans(self, batches: Iterable[KeyBatch]) -> Iterator[IterationPlan]:
        """Plans of all batches, in order; reads at most L batches beyond the plan it yields.

        Raises:
            CacheTooSmallError: names the iteration, the need, the limit, and the settings that mend it.
        """
        for batch in batches:
            self._enter(batch)
            if len(self._pending) > self.window:
                yield self._emit()
        while self._pending:
            yield self._emit()

    def _enter(self, batch: KeyBatch) -> None:
        if self._num_entered >= MAX_STAMP // self.num_trainers:
            raise ConfigError(f"one run plans at most {self._num_entered:,} iterations; start a new run to go on")
        num_ids = len(batch.keys)
        if num_ids > self._ring.capacity:
            self._ring = self._ring.grown(num_ids)
        shares = np.asarray(share_boundaries(len(batch.labels), self.num_trainers), dtype=np.int64)
        id_ends = shares * (num_ids // max(1, len(batch.labels)))
        entered = enter_batch(self._num_entered, self.window, batch.keys, id_ends, self._key_state, self._ring)
        self._pending.append(_Pending(replace(batch, keys=batch.keys[:0].copy()), shares, id_ends, entered))
        self._num_entered += 1

    def _emit(self) -> IterationPlan:
        iteration = self._num_emitted
        pending = self._pending.popleft()
        entered, read_only = pending.entered, pending.batch.read_only
        next_uses = self._ring.next_uses_of(iteration, entered.num_entries)
        placement = self._residency.place(iteration, read_only, entered, next_uses, self._key_state, self._ring)
        exchange = exchange_lists(
            iteration, self._previous_updated, pending.id_ends, entered, next_uses, placement, self._ring
        )
        new = placement.fetched
        entry_keys = self._ring.keys[iteration % self._ring.ring_size, : entered.num_entries]
        fetches = self._transfers(entry_keys[new], placement.owner[new], placement.slot[new])
        write_backs = self._transfers(placement.evicted_keys, placement.evicted_owners, placement.evicted_slots)
        n = placement.num_forced
        forced = self._transfers(placement.evicted_keys[:n], placement.evicted_owners[:n], placement.evicted_slots[:n])
        plan = self._cut(iteration, pending, exchange, fetches, write_backs, forced.counts)
        self._previous_updated = not read_only
        self._num_emitted += 1
        return plan

    def _transfers(self, keys: Int64Array, trainers: Int32Array, slots: Int32Array) -> TransferLists:
        return transfer_lists(keys, trainers, slots, self.num_trainers, self.num_servers)

    def _cut(
        self,
        iteration: int,
        pending: _Pending,
        exchange: ExchangeLists,
        fetches: TransferLists,
        write_backs: TransferLists,
        forced_counts: Int64Array,
    ) -> IterationPlan:
        """Cut the flat lists into per-rank plans; arrays are views."""
        fetch_offsets = self._fetch_ring.offsets(iteration, fetches.counts)
        write_back_offsets = self._write_back_ring.offsets(iteration, write_backs.counts)
        rings = {"fetch_ring_rows": self._fetch_ring.rows, "write_back_ring_rows": self._write_back_ring.rows}

        # (T receivers, T owners): rows that travel between trainers; own rows do not.
        blocks = exchange.counts.sum(axis=2)
        np.fill_diagonal(blocks, 0)
        cuts = np.cumsum(exchange.counts, axis=2)[:, :, :3].astype(np.int32)
        cuts[np.diag_indices(self.num_trainers)] = 0
        push_ends = _ends(blocks.sum(axis=0))
        fetch_ends, write_back_ends = _ends(fetches.counts.sum(axis=1)), _ends(write_backs.counts.sum(axis=1))
        batch, shares, id_ends = pending.batch, pending.shares, pending.id_ends
        trainers = tuple(
            TrainerPlan(
                iteration=iteration,
                read_only=batch.read_only,
                num_samples=int(shares[t + 1] - shares[t]),
                num_global_samples=len(batch.labels),
                labels=batch.labels[shares[t] : shares[t + 1]],
                dense=batch.dense[shares[t] : shares[t + 1]],
                sample_rows=exchange.sample_rows[id_ends[t] : id_ends[t + 1]],
                fetch_slots=fetches.slots[fetch_ends[t] : fetch_ends[t + 1]],
                fetch_counts=fetches.counts[t].astype(np.int32),
                fetch_offsets=fetch_offsets[t],
                num_own=int(exchange.counts[t, t, 0]),
                update_slots=exchange.update_slots[exchange.update_ends[t] : exchange.update_ends[t + 1]],
                push_index=exchange.push_index[push_ends[t] : push_ends[t + 1]],
                push_counts=blocks[:, t].astype(np.int32),
                push_cuts=cuts[:, t],
                replica_counts=blocks[t].astype(np.int32),
                replica_cuts=cuts[t],
                write_back_slots=write_backs.slots[write_back_ends[t] : write_back_ends[t + 1]],
                write_back_counts=write_backs.counts[t].astype(np.int32),
                forced_counts=forced_counts[t].astype(np.int32),
                write_back_offsets=write_back_offsets[t],
                **rings,
            )
            for t in range(self.num_trainers)
        )
        fetch_ends, write_back_ends = _ends(fetches.counts.sum(axis=0)), _ends(write_backs.counts.sum(axis=0))
        servers = tuple(
            ServerPlan(
                iteration=iteration,
                fetch_rows=fetches.local_rows[fetch_ends[s] : fetch_ends[s + 1]],
                fetch_counts=fetches.counts[:, s].astype(np.int32),
                fetch_offsets=fetch_offsets[:, s],
                write_back_rows=write_backs.local_rows[write_back_ends[s] : write_back_ends[s + 1]],
                write_back_counts=write_backs.counts[:, s].astype(np.int32),
                write_back_offsets=write_back_offsets[:, s],
                **rings,
            )
            for s in range(self.num_servers)
        )
        return IterationPlan(iteration, trainers, servers)


def _ends(counts: Int64Array) -> Int64Array:
    return np.concatenate([[0], np.cumsum(counts)])
