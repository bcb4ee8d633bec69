"""Locality assignment: what it keeps, what it saves, and that it equals a twin of a few lines."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.lookahead.locality import LocalityAssigner
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.sharding import KeySpace, share_boundaries
from tests.parts import real_clicks

REAL = "criteo_kaggle_110k.txt.gz"


class BruteForceAssigner:
    """The rule of `LocalityAssigner`, sample by sample, trainer by trainer."""

    def __init__(self, num_trainers: int, table_offsets: Int64Array, num_buckets: int) -> None:
        self.num_trainers = num_trainers
        self.first_keys = table_offsets[:-1].tolist()
        self.num_buckets = num_buckets
        self.homes: dict[int, int] = {}
        self.latest: dict[int, int] = {}  # entry of each bucket
        self.num_entries = 0

    def order(self, ids: Int64Array, share_ends: Int64Array) -> list[int]:
        keys = [[i + f for i, f in zip(row, self.first_keys, strict=True)] for row in ids.tolist()]
        return self.order_of_keys(keys, share_ends)

    def order_of_keys(self, keys: list[list[int]], share_ends: Int64Array) -> list[int]:
        samples = [[key % self.num_buckets for key in sample] for sample in keys]
        uses = Counter(itertools.chain.from_iterable(samples))
        for bucket in uses:
            if self.num_entries - self.latest.get(bucket, 0) > self.num_buckets // 2:
                self.homes.pop(bucket, None)
        for entry, bucket in enumerate(uses, start=self.num_entries):
            self.latest[bucket] = entry
        self.num_entries += len(uses)

        shares: list[list[int]] = [[] for _ in range(self.num_trainers)]
        has = {(bucket, self.homes[bucket]) for bucket in uses if bucket in self.homes}
        for sample, buckets in enumerate(samples):
            values = []
            for t in range(self.num_trainers):
                score = 1 + sum(max(0, 4 * self.num_trainers - uses[b]) for b in buckets if (b, t) in has)
                values.append(score * (share_ends[t + 1] - share_ends[t] - len(shares[t])))
            best = values.index(max(values))
            shares[best].append(sample)
            for bucket in buckets:
                has.add((bucket, best))
                self.homes.setdefault(bucket, best)
        return list(itertools.chain.from_iterable(shares))


def share_ends_of(num_samples: int, num_trainers: int) -> Int64Array:
    return np.asarray(share_boundaries(num_samples, num_trainers), dtype=np.int64)


def offsets_of(*num_embeddings: int) -> Int64Array:
    return KeySpace(num_embeddings).table_offsets


def assert_deals(order: Int32Array, share_ends: Int64Array) -> None:
    """Every sample once, ascending within each share."""
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(share_ends[-1]))
    for begin, end in itertools.pairwise(share_ends):
        assert (np.diff(order[begin:end]) > 0).all()


def num_replicas(keys: Int64Array, share_ends: Int64Array) -> int:
    """Sum over the keys of a batch of (trainers that use it - 1)."""
    per_share = [len(np.unique(keys[begin:end])) for begin, end in itertools.pairwise(share_ends)]
    return sum(per_share) - len(np.unique(keys))


def clustered_batches(num_batches: int, num_samples: int, num_clusters: int) -> list[Int64Array]:
    """Samples of two tables with ten rows per cluster and one table of three rows that all share."""
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, num_clusters, (num_batches, num_samples, 1))
    own = 10 * clusters + rng.integers(0, 10, (num_batches, num_samples, 2))
    return list(np.concatenate([own, rng.integers(0, 3, (num_batches, num_samples, 1))], axis=2))


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, tuple[int, ...], list[Int64Array]]:
    """T, rows of each table, and batches, some empty, some smaller than T."""
    num_trainers = draw(st.sampled_from([3, 2, 4, 7, 1]))
    num_embeddings = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    sample = st.tuples(*(st.integers(0, rows - 1) for rows in num_embeddings))
    batches = draw(st.lists(st.lists(sample, max_size=12), max_size=6))
    return num_trainers, num_embeddings, [np.array(b, np.int64).reshape(-1, len(num_embeddings)) for b in batches]


@settings(deadline=None)
@given(streams(), st.sampled_from([4, 16, 64]))
def test_equals_the_twin(stream: tuple[int, tuple[int, ...], list[Int64Array]], num_buckets: int) -> None:
    num_trainers, num_embeddings, batches = stream
    assigner = LocalityAssigner(num_trainers, offsets_of(*num_embeddings), num_buckets=num_buckets)
    twin = BruteForceAssigner(num_trainers, offsets_of(*num_embeddings), num_buckets)
    for ids in batches:
        share_ends = share_ends_of(len(ids), num_trainers)
        order = assigner.order(ids, share_ends)
        assert_deals(order, share_ends)
        assert order.tolist() == twin.order(ids, share_ends)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(*[st.lists(st.integers(0, 6), max_size=3)] * 2), max_size=9), max_size=4))
def test_ragged_features_are_part_of_the_sample(batches: list[list[tuple[list[int], list[int]]]]) -> None:
    """Two ragged features and a one-hot one between them; the last two share a table."""
    features, offsets = FeatureTables((0, 1, 1), ragged=(0, 2)), offsets_of(7, 7)
    assigner = LocalityAssigner(3, offsets, features, num_buckets=16)
    twin = BruteForceAssigner(3, np.zeros(1, np.int64), 16)
    for batch in batches:
        ids = np.arange(len(batch)).reshape(-1, 1) % 7
        first, last = (ragged([sample[f] for sample in batch]) for f in (0, 1))
        share_ends = share_ends_of(len(batch), 3)
        keys = [[7 + i % 7, *a, *(7 + key for key in b)] for i, (a, b) in enumerate(batch)]
        assert assigner.order(ids, share_ends, [first, last]).tolist() == twin.order_of_keys(keys, share_ends)


def ragged(bags: list[list[int]]) -> Bags:
    ids = np.array(list(itertools.chain.from_iterable(bags)), dtype=np.int64)
    return Bags(np.cumsum([0, *map(len, bags)]), ids)


@pytest.mark.parametrize("num_trainers", [5, 64, 100])
def test_equals_the_twin_on_a_longer_stream(num_trainers: int) -> None:
    offsets = offsets_of(400, 400, 3)
    assigner = LocalityAssigner(num_trainers, offsets, num_buckets=256)
    twin = BruteForceAssigner(num_trainers, offsets, 256)
    for ids in clustered_batches(num_batches=4, num_samples=211, num_clusters=40):
        share_ends = share_ends_of(len(ids), num_trainers)
        order = assigner.order(ids, share_ends)
        assert_deals(order, share_ends)
        assert order.tolist() == twin.order(ids, share_ends)


def test_one_trainer_takes_the_batch_as_it_is() -> None:
    assigner = LocalityAssigner(1, offsets_of(50, 50, 3))
    for ids in clustered_batches(num_batches=2, num_samples=30, num_clusters=5):
        assert assigner.order(ids, share_ends_of(30, 1)).tolist() == list(range(30))


def test_width_of_the_ids_changes_nothing() -> None:
    wide, narrow = (LocalityAssigner(4, offsets_of(200, 200, 3)) for _ in range(2))
    for ids in clustered_batches(num_batches=3, num_samples=100, num_clusters=20):
        share_ends = share_ends_of(100, 4)
        np.testing.assert_array_equal(
            wide.order(ids, share_ends), narrow.order(ids.astype(np.int32), share_ends), strict=True
        )


def test_samples_with_a_row_in_common_meet_and_return() -> None:
    assigner = LocalityAssigner(2, offsets_of(6))
    ids = np.array([[0], [1], [0], [1]])
    assert assigner.order(ids, share_ends_of(4, 2)).tolist() == [0, 2, 1, 3]
    assert assigner.order(ids[::-1].copy(), share_ends_of(4, 2)).tolist() == [1, 3, 0, 2]


def test_a_home_is_forgotten() -> None:
    offsets = offsets_of(8)
    for num_others, order in ((2, [1, 0]), (5, [0, 1])):
        assigner = LocalityAssigner(2, offsets, num_buckets=8)
        assigner.order(np.array([[0], [1]]), share_ends_of(2, 2))
        assigner.order(np.arange(2, 2 + num_others).reshape(-1, 1), share_ends_of(num_others, 2))
        assert assigner.order(np.array([[1], [0]]), share_ends_of(2, 2)).tolist() == order


def test_fewer_replicas_where_samples_form_clusters() -> None:
    assigner = LocalityAssigner(8, offsets_of(640, 640, 3))
    contiguous = local = 0
    for ids in clustered_batches(num_batches=10, num_samples=512, num_clusters=64):
        keys, share_ends = ids + offsets_of(640, 640, 3)[:-1], share_ends_of(512, 8)
        contiguous += num_replicas(keys, share_ends)
        local += num_replicas(keys[assigner.order(ids, share_ends)], share_ends)
    assert 2 * local < contiguous


def criteo_batches(batch_size: int, num_batches: int) -> tuple[list[Int64Array], Int64Array]:
    """Row ids of the first lines of the log, and the table offsets; rare values are rows like all others."""
    with gzip.open(real_clicks(REAL), "rt", encoding="ascii") as lines:
        rows = [line.rstrip("\n").split("\t")[14:] for line in itertools.islice(lines, batch_size * num_batches)]
    columns = [np.unique(column, return_inverse=True) for column in np.array(rows).T]
    ids = np.ascontiguousarray(np.stack([column for _, column in columns], axis=1))
    return np.split(ids, num_batches), offsets_of(*(len(values) for values, _ in columns))


def num_pushed(batches: list[Int64Array], offsets: Int64Array, num_trainers: int) -> int:
    planner = Planner(
        num_embeddings=tuple(np.diff(offsets).tolist()),
        num_trainers=num_trainers,
        num_servers=1,
        window=8,
        prefetch_depth=2,
        cache_rows=int(offsets[-1]),
    )
    nothing = np.zeros((len(batches[0]), 0), dtype=np.float32)
    stream = (Batch(np.zeros(len(ids), dtype=np.float32), nothing, ids) for ids in batches)
    return sum(len(plan.exchange.push_index) for plan in planner.plans(stream))


def test_fewer_rows_are_pushed_on_a_real_click_log() -> None:
    batches, offsets = criteo_batches(batch_size=2048, num_batches=10)
    num_trainers = 8
    assigner = LocalityAssigner(num_trainers, offsets)
    share_ends = share_ends_of(2048, num_trainers)
    placed = [ids[assigner.order(ids, share_ends)] for ids in batches]
    assert num_pushed(placed, offsets, num_trainers) < 0.7 * num_pushed(batches, offsets, num_trainers)
