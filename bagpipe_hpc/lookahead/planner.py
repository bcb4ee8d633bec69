"""The planner: batches in, iteration plans out (paper section 3.2).

Plan i is emitted once iterations i..i+L have entered the lookahead window (or the stream has ended). Per iteration:

1. `next_use.NextUsePass`   the batch of i+L enters: unique keys, their next uses;
2. `residency.place`        owners, slots and forced evictions for i, then who leaves after i;
3. `lists`                  the order of rows at every trainer; pushes, fetches, write-backs;
4. here                     stage positions in the servers' rings.

`enter` (1) and `emit` (2 to 4) may run in two threads: they share the entry ring, but never a row of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Lock

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.feature_tables import FeatureTables, one_id_per_table
from bagpipe_hpc.lookahead.features import TableOrder
from bagpipe_hpc.lookahead.lists import count_transfers, exchange_lists, transfer_lists
from bagpipe_hpc.lookahead.next_use import (
    CompactKeyState,
    DenseKeyState,
    EnteredBatch,
    EntryRing,
    KeyState,
    NextUsePass,
)
from bagpipe_hpc.lookahead.residency import Residency
from bagpipe_hpc.lookahead.residents import residents_between, take_over
from bagpipe_hpc.pipeline import Cores
from bagpipe_hpc.protocol.plan import Int64Array, IterationPlan, KeyArray, Residents, Samples
from bagpipe_hpc.sharding import KeySpace, share_boundaries

MIN_RING_ROWS = 1024
MAX_DENSE_KEYS = 2**29  # 4 GiB of key state
BATCHES_AHEAD = 2  # entered beyond the window while `emit` is at work


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
        num_embeddings: Rows of each table.
        num_trainers: T.
        num_servers: S.
        window: Lookahead window L; 0 plans the synchronous baseline: every row fetched and written back each iteration.
        prefetch_depth: P <= L: how many iterations ahead rows travel.
        cache_rows: Slots per trainer.
        features: What a sample has; None: one id in each table.
        max_dense_keys: Larger key spaces keep the state of the keys in the window only.
        cores: The next-use pass runs in as many threads as there are cores free; None: in one.
        first_iteration: Number of the first batch, and of the training iterations before it.
        residents: What the caches hold before it; None: nothing.
    Raises:
        ConfigError: P > L.
    Communication: none.
    """

    def __init__(
        self,
        *,
        num_embeddings: tuple[int, ...],
        num_trainers: int,
        num_servers: int,
        window: int,
        prefetch_depth: int,
        cache_rows: int,
        features: FeatureTables | None = None,
        max_dense_keys: int = MAX_DENSE_KEYS,
        cores: Cores | None = None,
        first_iteration: int = 0,
        residents: Residents | None = None,
    ) -> None:
        if not 0 <= prefetch_depth <= window:
            raise ConfigError(
                f"lookahead.prefetch_depth is {prefetch_depth}; it must lie between 0 and lookahead.window ({window})"
            )
        self.num_trainers = num_trainers
        self.num_servers = num_servers
        self.window = window
        key_space = KeySpace(num_embeddings)
        num_keys = key_space.num_keys
        key_state: KeyState = DenseKeyState(num_keys) if num_keys <= max_dense_keys else CompactKeyState()
        self._table_order = TableOrder(features or one_id_per_table(len(num_embeddings)), key_space.table_offsets)
        self._next_uses = NextUsePass(key_state, window, num_trainers, cores)
        # The window, the iteration before it, what `enter` may be ahead, and the iteration it is entering.
        key_dtype = np.int32 if num_keys < 2**31 else np.int64
        self._ring = EntryRing.empty(window + BATCHES_AHEAD + 3, capacity=0, key_dtype=key_dtype)
        self._keys: KeyArray = self._ring.keys[0]  # of the batch that enters, table by table
        self._ring_lock = Lock()  # held while the ring grows, and while rows of it are played
        self._residency = Residency(num_trainers, cache_rows, prefetch_depth, self._ring.ring_size)
        self._pending: deque[tuple[Samples, EnteredBatch]] = deque()
        self._residents = residents
        self._first_iteration = self._next_to_enter = self._next_to_emit = first_iteration
        self._num_trained = first_iteration  # before the plan to be emitted next
        self._fetch_ring = StageRing(prefetch_depth + 1)
        self._write_back_ring = StageRing(prefetch_depth + 1)

    def plans(self, batches: Iterable[Batch]) -> Iterator[IterationPlan]:
        """Plans of all batches, in order; reads at most L batches beyond the plan it yields.

        Raises:
            CacheTooSmallError: names the iteration, the need, the limit, and the settings that mend it.
        """
        for batch in batches:
            if self.enter(batch):
                yield self.emit()
        for _ in range(self.num_pending):
            yield self.emit()

    @property
    def key_state_bytes(self) -> int:
        """Memory of the state per key, touched or not."""
        return self._next_uses.key_state.num_bytes

    @property
    def num_entered(self) -> int:
        """Batches that entered."""
        return self._next_to_enter - self._first_iteration

    @property
    def num_pending(self) -> int:
        """Batches that entered and whose plans were not emitted."""
        return len(self._pending)

    def enter(self, batch: Batch) -> bool:
        """Let the next batch enter the window; returns whether a plan is due, the window being full."""
        iteration = self._next_to_enter
        if iteration >= self._next_uses.max_iterations:
            raise ConfigError(f"one run plans at most {iteration:,} iterations; start a new run to go on")
        if batch.num_ids > self._ring.capacity:
            self._grow(batch.num_ids)
        sample_ends = np.asarray(share_boundaries(batch.num_samples, self.num_trainers), dtype=np.int64)
        keys, bags = self._keys[: batch.num_ids], tuple(batch.bags.values())
        id_ends = self._table_order.arrange(batch.ids, bags, sample_ends, keys)
        bag_lists = self._table_order.bag_lists(bags, sample_ends)
        samples = Samples(batch.labels, batch.dense, bag_lists, sample_ends, batch.read_only)
        self._pending.append((samples, self._next_uses.enter(iteration, keys, id_ends, self._ring)))
        self._next_to_enter += 1
        return self.num_entered > self.window

    def _grow(self, num_ids: int) -> None:
        """Make room for larger batches; a second time with some to spare, for ragged ones keep growing a little."""
        capacity = num_ids + (num_ids // 4 if self._ring.capacity else 0)
        with self._ring_lock:
            self._ring = self._ring.grown(capacity)
        self._keys = np.empty(capacity, dtype=self._keys.dtype)

    def emit(self) -> IterationPlan:
        """Plan of the oldest batch in the window.

        Raises:
            CacheTooSmallError: as `plans`.
        """
        with self._ring_lock:
            if self._residents is not None:
                self._take_over(self._residents)
                self._residents = None
            return self._emit(*self._pending.popleft())

    def residents(self) -> Residents:
        """What the caches hold after the plan emitted last."""
        with self._ring_lock:
            return residents_between(self._residency, self._ring)

    def _take_over(self, residents: Residents) -> None:
        # The batches of the first plan's window and no others: more may have entered.
        batches = [entered for _, entered in list(self._pending)[: self.window]]
        take_over(self._residency, self._ring, residents, self._next_to_emit, batches)

    def _emit(self, samples: Samples, entered: EnteredBatch) -> IterationPlan:
        iteration = self._next_to_emit
        moves = self._residency.place(iteration, samples.read_only, entered, self._ring)
        exchange = exchange_lists(iteration, entered, self._ring)
        np.subtract(exchange.push_ends[1:], exchange.push_ends[:-1], out=self._residency.caches.num_pushed)
        fetches = transfer_lists(moves.fetched, self.num_trainers, self.num_servers)
        write_backs = transfer_lists(moves.evicted, self.num_trainers, self.num_servers)
        forced_counts = np.zeros_like(write_backs.counts)
        count_transfers(moves.evicted.first(moves.num_forced), forced_counts)
        self._next_to_emit += 1
        num_trained = self._num_trained
        self._num_trained += not samples.read_only
        return IterationPlan(
            stream_position=iteration,
            num_trained=num_trained,
            samples=samples,
            num_ids=entered.num_ids,
            inverse=entered.inverse,
            num_uniques=entered.num_uniques,
            exchange=exchange,
            fetches=fetches,
            fetch_offsets=self._fetch_ring.offsets(iteration, fetches.counts),
            write_backs=write_backs,
            forced_counts=forced_counts,
            write_back_offsets=self._write_back_ring.offsets(iteration, write_backs.counts),
            fetch_ring_rows=self._fetch_ring.rows,
            write_back_ring_rows=self._write_back_ring.rows,
        )
