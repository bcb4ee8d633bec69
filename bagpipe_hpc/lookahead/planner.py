"""The planner: it turns the stream of batches into the stream of iteration plans (paper section 3.2).

Plan i is made when the batches of iterations i to i + L have entered the lookahead window, or when the stream of
batches has ended. Planning has four steps:

1. `next_use.NextUsePass`           finds the unique keys of batch i + L as it enters, and the next uses of keys
2. `residency.CacheModel.plan_moves` chooses owners and slots for iteration i, and which rows leave the caches
3. `lists`                          orders the rows of every trainer; lists pushes, fetches and write-backs
4. `StageRing`                      gives each stage its position in the servers' windows

`Planner.enter` does step 1, `Planner.emit` the others. They may run in two threads: they share the entry ring, but not
the rows of it that they write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Lock

import numpy as np

from bagpipe_hpc.batch import Batch, Births
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
from bagpipe_hpc.lookahead.residency import CacheModel, MovingRows
from bagpipe_hpc.lookahead.residents import residents_between, take_over
from bagpipe_hpc.lookahead.samples import samples_of
from bagpipe_hpc.pipeline import Cores
from bagpipe_hpc.protocol.plan import BornRows, Int64Array, IterationPlan, KeyArray, Residents, Samples, ends
from bagpipe_hpc.sharding import KeySpace, share_boundaries

MIN_RING_ROWS = 1024
MAX_DENSE_KEYS = 2**29  # their states take 4 GiB
BATCHES_AHEAD = 2  # batches that may enter beyond the window while `emit` is at work


class StageRing:
    """The ring of stages in the servers' windows, in one direction. Its slots grow by doubling and never shrink.

    Args:
        num_slots: Number of iterations whose stages the ring holds at the same time.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_rows = MIN_RING_ROWS

    def offsets(self, iteration: int, counts: Int64Array) -> Int64Array:
        """Pack the stages of an iteration into its slot.

        Args:
            iteration: Its number.
            counts: Number of rows of the stage of each trainer and server, int64, shape (T, S).
        Returns:
            The first row of each stage in its server's window, int64, shape (T, S).
        """
        while self.num_rows < counts.sum(axis=0).max():
            self.num_rows *= 2
        packed = np.cumsum(counts, axis=0) - counts
        return (iteration % self.num_slots) * self.num_rows + packed


class Planner:
    """Turns the batch stream into the stream of iteration plans.

    Args:
        num_embeddings: Number of rows of each table.
        num_trainers: T.
        num_servers: S.
        window: Lookahead window L. With 0, every row is fetched and written back in each iteration: that is the
            synchronous baseline.
        prefetch_depth: P <= L: how many iterations ahead rows travel.
        cache_rows: Number of slots per trainer.
        features: The features of a sample and their tables; None: one one-hot feature for each table.
        max_dense_keys: With more keys than this, the planner keeps states of the keys in the window only.
        cores: The tables of a batch enter the window in as many threads as there are free cores; None: in one.
        num_blocks: The blocks that a batch is cut into, a multiple of T; None: T.
        has_plain_labels: See Schema.
        first_iteration: Place of the first batch in the stream, and number of training iterations before it.
        residents: What the caches hold before the first batch; None: nothing.
    Raises:
        ConfigError: P > L, or P < 0.
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
        num_blocks: int | None = None,
        has_plain_labels: bool = True,
        first_iteration: int = 0,
        residents: Residents | None = None,
    ) -> None:
        if not 0 <= prefetch_depth <= window:
            raise ConfigError(
                f"lookahead.prefetch_depth is {prefetch_depth}; it must lie between 0 and lookahead.window ({window})"
            )
        self.num_trainers = num_trainers
        self.num_servers = num_servers
        self.num_blocks = num_blocks
        self._has_plain_labels = has_plain_labels
        self.window = window
        key_space = KeySpace(num_embeddings)
        self._table_offsets = key_space.table_offsets
        num_keys = key_space.num_keys
        key_state: KeyState = DenseKeyState(num_keys) if num_keys <= max_dense_keys else CompactKeyState()
        self._table_order = TableOrder(features or one_id_per_table(len(num_embeddings)), key_space.table_offsets)
        self._next_uses = NextUsePass(key_state, window, num_trainers, cores)
        # Room for the window, the iteration before it, the batches that may be ahead, and the one that is entering.
        key_dtype = np.int32 if num_keys < 2**31 else np.int64
        self._ring = EntryRing.empty(window + BATCHES_AHEAD + 3, capacity=0, key_dtype=key_dtype)
        self._keys: KeyArray = self._ring.keys[0]  # of the batch that enters, in table order
        self._ring_lock = Lock()  # held while the ring grows, and while `emit` works on it
        self._residency = CacheModel(num_trainers, cache_rows, prefetch_depth, self._ring.ring_size)
        self._pending: deque[tuple[Samples, EnteredBatch, Births | None]] = deque()
        self._residents = residents
        self._first_iteration = self._next_to_enter = self._next_to_emit = first_iteration
        self._num_trained = first_iteration  # before the plan that is made next
        self._fetch_ring = StageRing(prefetch_depth + 1)
        self._write_back_ring = StageRing(prefetch_depth + 1)

    def plans(self, batches: Iterable[Batch]) -> Iterator[IterationPlan]:
        """Yield the plans of all batches, in order. Reads at most L batches beyond the plan that it yields.

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
        """Memory of the states of keys in bytes, whether it has been touched or not."""
        return self._next_uses.key_state.num_bytes

    @property
    def num_slots(self) -> int:
        """The number of slots that the fullest cache has used so far."""
        return int(self._residency.caches.num_issued.max())

    @property
    def num_entered(self) -> int:
        """The number of batches that entered."""
        return self._next_to_enter - self._first_iteration

    @property
    def num_pending(self) -> int:
        """The number of batches that entered and whose plans are not made yet."""
        return len(self._pending)

    def enter(self, batch: Batch) -> bool:
        """Let the next batch enter the lookahead window.

        Returns:
            Whether the window is full, so that a plan is due.
        Raises:
            ConfigError: the numbers of iterations have run out.
        """
        iteration = self._next_to_enter
        if iteration >= self._next_uses.max_iterations:
            raise ConfigError(f"one run plans at most {iteration:,} iterations; start a new run to go on")
        if batch.num_ids > self._ring.capacity:
            self._grow(batch.num_ids)
        bounds = share_boundaries(batch.num_samples, self.num_trainers, self.num_blocks)
        sample_ends = np.asarray(bounds, dtype=np.int64)
        keys, bags = self._keys[: batch.num_ids], tuple(batch.bags.values())
        id_ends = self._table_order.arrange(batch.ids, bags, sample_ends, keys)
        bag_lists = self._table_order.bag_lists(bags, sample_ends)
        samples = samples_of(batch, bag_lists, sample_ends, has_plain_labels=self._has_plain_labels)
        births = batch.births
        born = None if births is None else (self._table_offsets[births.tables] + births.rows).astype(keys.dtype)
        self._pending.append((samples, self._next_uses.enter(iteration, keys, id_ends, self._ring, born), births))
        self._next_to_enter += 1
        return self.num_entered > self.window

    def _grow(self, num_ids: int) -> None:
        """Make room for larger batches. From the second time on, make more room than needed: bags vary in size."""
        capacity = num_ids + (num_ids // 4 if self._ring.capacity else 0)
        with self._ring_lock:
            self._ring = self._ring.grown(capacity)
        self._keys = np.empty(capacity, dtype=self._keys.dtype)

    def emit(self) -> IterationPlan:
        """Return the plan of the oldest batch in the lookahead window.

        Raises:
            CacheTooSmallError: as `plans`.
        """
        with self._ring_lock:
            if self._residents is not None:
                self._take_over(self._residents)
                self._residents = None
            return self._emit(*self._pending.popleft())

    def cached_rows(self) -> list[int]:
        """Return how many rows the cache of each trainer holds after the plan made last."""
        caches = self._residency.caches
        counts: list[int] = (caches.num_issued - caches.num_free - caches.num_freed).tolist()
        return counts

    def residents(self) -> Residents:
        """Return what the caches hold after the plan made last."""
        with self._ring_lock:
            return residents_between(self._residency, self._ring)

    def _take_over(self, residents: Residents) -> None:
        # More batches than those of the first plan's window may have entered. They must not count.
        batches = [entered for _, entered, _ in list(self._pending)[: self.window]]
        take_over(self._residency, self._ring, residents, self._next_to_emit, batches)

    def _emit(self, samples: Samples, entered: EnteredBatch, births: Births | None) -> IterationPlan:
        iteration = self._next_to_emit
        moves = self._residency.plan_moves(iteration, samples.read_only, entered, self._ring)
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
            born=None if births is None else self._born_rows(moves.born, births),
            write_back_offsets=self._write_back_ring.offsets(iteration, write_backs.counts),
            fetch_ring_rows=self._fetch_ring.num_rows,
            write_back_ring_rows=self._write_back_ring.num_rows,
        )

    def _born_rows(self, rows: MovingRows, births: Births) -> BornRows:
        """Return the rows that begin anew by their owners."""
        keys = self._table_offsets[births.tables] + births.rows
        by_key = np.argsort(keys)
        of_rows = by_key[np.searchsorted(keys, rows.keys, sorter=by_key)]
        by_owner = np.argsort(rows.owners, kind="stable")
        births_in_order = of_rows[by_owner]
        return BornRows(
            rows.slots[by_owner],
            births.tables[births_in_order],
            births.ids[births_in_order],
            ends(np.bincount(rows.owners, minlength=self.num_trainers)),
        )
