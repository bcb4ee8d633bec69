"""What every row transport must do (`bagpipe_hpc/transport/base.py`), as scenarios that any implementation can play.

Plans come from the real planner. Trainers add to each row a number that tells key and iteration apart; what a row must
be before each iteration is computed from the stream alone. Every fetched row is compared with that as it lands, and at
the end every row of every server is. No MPI here: the players are given one end of a transport each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import add
from queue import Queue

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.transport.base import ServerEnd, TrainerEnd
from tests.plans import RankPlans, rank_plans

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

STATE_WIDTH = 1  # columns of optimizer state; they travel and change like the others


@dataclass(frozen=True)
class Scenario:
    """A stream of batches and how it is planned.

    Args:
        sizes: Samples of each batch.
        read_only: Iterations that update nothing.
        tight: Caches no larger than they must be, so that rows leave before their time.
    """

    name: str
    window: int = 5
    prefetch_depth: int = 2
    row_width: int = 5
    num_keys: int = 80
    ids_per_sample: int = 3
    sizes: tuple[int, ...] = (6, 1, 9, 4) * 6
    read_only: frozenset[int] = frozenset()
    tight: bool = False

    def batches(self) -> list[Batch]:
        """Half the ids are hot, so that rows have long and short residencies."""
        random = np.random.default_rng(len(self.name))
        batches = []
        for iteration, size in enumerate(self.sizes):
            keys = random.integers(0, self.num_keys, (size, self.ids_per_sample))
            hot = random.random(keys.shape) < 0.5
            keys[hot] //= 8
            labels, dense = np.zeros(size, np.float32), np.zeros((size, 0), np.float32)
            batches.append(Batch(labels, dense, keys, read_only=iteration in self.read_only))
        return batches


SCENARIOS = (
    Scenario("typical"),
    Scenario("rows travel one iteration ahead", prefetch_depth=1),
    Scenario("prefetch as deep as the window", prefetch_depth=5),
    Scenario("lookahead without prefetch", prefetch_depth=0),
    Scenario("synchronous", window=0, prefetch_depth=0),
    Scenario("one column", row_width=1 + STATE_WIDTH),
    Scenario("wide rows", row_width=133),
    Scenario("full caches", window=10, prefetch_depth=1, sizes=(5,) * 24, tight=True),
    Scenario("full caches without prefetch", window=10, prefetch_depth=0, sizes=(5,) * 24, tight=True),
    Scenario("hardly any rows", num_keys=7, ids_per_sample=1, sizes=(1, 2, 1) * 8),
    Scenario("everything is new", num_keys=100_000, sizes=(6, 1) * 10),
    Scenario("read-only from the start", read_only=frozenset(range(24))),
    Scenario("read-only at the end", read_only=frozenset(range(12, 24))),
    Scenario("read-only now and then", window=3, read_only=frozenset(range(1, 24, 3))),
    Scenario("one iteration", sizes=(5,)),
    Scenario("no iteration", sizes=()),
    Scenario("rings grow", window=2, num_keys=40_000, sizes=(5, 600, 5, 5, 1500, 5, 2500, 3, 3, 3, 1500, 2)),
    Scenario("rings grow at once", window=2, prefetch_depth=0, num_keys=40_000, sizes=(2500, 3, 3, 3)),
)


class Play:
    """A scenario for T trainers and S servers: the plans, and what all rows must be before each iteration."""

    def __init__(self, scenario: Scenario, num_trainers: int, num_servers: int) -> None:
        self.scenario = scenario
        self.num_trainers = num_trainers
        self.sharding = Sharding(scenario.num_keys, num_servers)
        key_space = KeySpace((scenario.num_keys // 3, scenario.num_keys - scenario.num_keys // 3))
        self.initializer = RowInitializer(key_space, scenario.row_width - STATE_WIDTH, seed=3)
        self._batches = scenario.batches()
        self.cache_rows = self._count_cache_rows()

    @cached_property
    def plans(self) -> list[RankPlans]:
        """Everybody's plans."""
        planner = Planner(
            num_embeddings=(self.scenario.num_keys,),
            features=FeatureTables((0,) * self.scenario.ids_per_sample),
            num_trainers=self.num_trainers,
            num_servers=self.sharding.num_servers,
            window=self.scenario.window,
            prefetch_depth=self.scenario.prefetch_depth,
            cache_rows=self.cache_rows,
        )
        return list(rank_plans(planner.plans(self._batches)))

    @cached_property
    def rows_before(self) -> list[Float32Array]:
        """Rows of all keys before each iteration and, last, after all; float32, shape (num_keys, row_width) each."""
        rows = np.empty((self.scenario.num_keys, self.scenario.row_width), dtype=np.float32)
        self.initializer.fill(np.arange(self.scenario.num_keys), rows)
        history = [rows]
        for iteration, batch in enumerate(self._batches):
            rows = rows.copy()
            if not batch.read_only:
                keys: Int64Array = np.unique(batch.ids)
                rows[keys] += change(keys, iteration)
            history.append(rows)
        return history

    @cached_property
    def updated_keys(self) -> Int64Array:
        """Keys that any iteration updates, ascending."""
        none = np.empty(0, dtype=np.int64)
        return np.unique(np.concatenate([none, *(batch.ids.ravel() for batch in self._batches if not batch.read_only)]))

    def fetched_keys(self, trainer: int, iteration: int) -> Int64Array:
        """Keys of a trainer's fetched rows, in their order: the servers' plans say."""
        pieces = [np.empty(0, dtype=np.int64)]
        for server, plan in enumerate(self.plans[iteration].servers):
            local_rows = np.split(plan.fetch_rows, np.cumsum(plan.fetch_counts)[:-1])[trainer]
            pieces.append(self.sharding.keys_of(server, local_rows))
        return np.concatenate(pieces)

    def new_store(self, server: int, rows: Float32Array | None = None) -> RowStore:
        """A server's empty store."""
        if rows is None:
            rows = np.full(self.shard_shape(server), np.nan, dtype=np.float32)
        return RowStore(self.sharding, server, self.initializer, rows)

    def shard_shape(self, server: int) -> tuple[int, int]:
        """Rows and columns of a server's shard."""
        return self.sharding.num_local_rows(server), self.scenario.row_width

    def _count_cache_rows(self) -> int:
        if not self.scenario.tight:
            return self.scenario.num_keys
        # Rows in use by P + 1 neighbouring iterations must be resident together, with those of the one before.
        uses, depth = [batch.ids.ravel() for batch in self._batches], self.scenario.prefetch_depth
        near = [len(np.unique(np.concatenate(uses[i : i + depth + 1]))) for i in range(len(uses))]
        before = [0, *(len(np.unique(keys)) for keys in uses)]
        most: int = max(map(add, near, before))
        return -(-most // self.num_trainers)


def change(keys: Int64Array, iteration: int) -> Float32Array:
    """What an iteration adds to rows."""
    column: Float32Array = ((keys * 31 + iteration * 17) % 1009).astype(np.float32)[:, np.newaxis]
    return column / np.float32(8) + np.float32(1)


def play_server(play: Play, end: ServerEnd, store: RowStore) -> None:
    """Serve all plans as an embedding server does, then compare every row."""
    unabsorbed: deque[int] = deque()
    plans = [plan.servers[store.server] for plan in play.plans]
    for iteration, plan in enumerate(plans):
        if len(unabsorbed) > play.scenario.prefetch_depth:
            end.absorb(plans[unabsorbed.popleft()])
        end.offer(plan)
        unabsorbed.append(iteration)
    while unabsorbed:
        end.absorb(plans[unabsorbed.popleft()])
    _check_store(play, store)


def play_trainer(play: Play, end: TrainerEnd, trainer: int, run_ahead: bool) -> None:
    """Play all plans as a trainer does, with a thread that fetches.

    Args:
        run_ahead: Touch nothing before the fetches have run ahead as far as they may; else start as soon as possible.
    """
    shape = (play.cache_rows, play.scenario.row_width)
    cache, keys = np.full(shape, np.nan, dtype=np.float32), np.full(play.cache_rows, -1)
    landed = _fetch_in_thread(play, end, trainer)
    waiting: deque[tuple[TrainerPlan, Float32Array]] = deque()
    for plan, rows in landed:
        waiting.append((plan, rows))
        if not run_ahead or len(waiting) > play.scenario.prefetch_depth:
            _play_iteration(play, end, trainer, cache, keys, *waiting.popleft())
    while waiting:
        _play_iteration(play, end, trainer, cache, keys, *waiting.popleft())


def _fetch_in_thread(play: Play, end: TrainerEnd, trainer: int) -> Iterator[tuple[TrainerPlan, Float32Array]]:
    queue: Queue[tuple[TrainerPlan, Float32Array] | BaseException | None] = Queue(max(1, play.scenario.prefetch_depth))

    def run() -> None:
        try:
            for plan in play.plans:
                mine = plan.trainers[trainer]
                rows = np.full((len(mine.fetch_slots), play.scenario.row_width), np.nan, dtype=np.float32)
                end.fetch(mine, rows)
                queue.put((mine, rows))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    start_thread("prefetch", run)
    while (item := queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _play_iteration(
    play: Play, end: TrainerEnd, trainer: int, cache: Float32Array, keys: Int64Array, plan: TrainerPlan,
    fetched: Float32Array,
) -> None:  # fmt: skip
    fetched_keys = play.fetched_keys(trainer, plan.stream_position)
    expected = play.rows_before[plan.stream_position][fetched_keys]
    np.testing.assert_array_equal(fetched, expected, f"rows fetched by trainer {trainer} in {plan.stream_position}")
    forced = np.concatenate([np.arange(n) < f for n, f in zip(plan.write_back_counts, plan.forced_counts, strict=True)])
    leaving = cache[plan.write_back_slots]
    cache[plan.fetch_slots], keys[plan.fetch_slots] = fetched, fetched_keys
    if not plan.read_only:
        cache[plan.update_slots] += change(keys[plan.update_slots], plan.stream_position)
    leaving[~forced] = cache[plan.write_back_slots[~forced]]
    end.write_back(plan, leaving)
    leaving.fill(np.nan)  # it is the trainer's again


def _check_store(play: Play, store: RowStore) -> None:
    local_rows = np.arange(len(store.rows))
    keys = play.sharding.keys_of(store.server, local_rows)
    touched, rows = store.touched(0, len(store.rows))
    np.testing.assert_array_equal(touched, np.intersect1d(keys, play.updated_keys), f"touched at {store.server}")
    np.testing.assert_array_equal(rows, play.rows_before[-1][touched], f"touched rows at {store.server}")
    every = np.empty(store.rows.shape, dtype=np.float32)
    store.gather(local_rows, every)
    np.testing.assert_array_equal(every, play.rows_before[-1][keys], f"all rows at {store.server}")
