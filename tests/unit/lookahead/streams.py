"""Random streams and planner sizes, tight enough that everything happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bagpipe_hpc.feature_tables import FeatureTables

from .brute_force import Batch


@dataclass(frozen=True)
class Case:
    """A stream and the planner's arguments."""

    batches: list[Batch]
    sizes: dict[str, Any]

    @property
    def may_not_fit(self) -> bool:
        """Whether some P + 1 neighbouring iterations use more rows than all caches hold."""
        rows = most_rows_at_once(self.batches, self.sizes["prefetch_depth"])
        num_slots: int = self.sizes["num_trainers"] * self.sizes["cache_rows"]
        return rows > num_slots


def batch(samples: list[list[int]], *, num_dense: int = 1, read_only: bool = False) -> Batch:
    """A batch of one-hot features, by their keys."""
    bags = [[[key] for key in column] for column in zip(*samples, strict=True)]
    return batch_of_bags(bags, len(samples), num_dense=num_dense, read_only=read_only)


def batch_of_bags(
    bags: list[list[list[int]]],
    num_samples: int,
    *,
    num_dense: int = 1,
    read_only: bool = False,
    weighted: tuple[int, ...] = (),
) -> Batch:
    """A batch of the given keys, with labels and dense values that tell its samples apart."""
    labels = np.arange(num_samples, dtype=np.float32)
    dense = np.add.outer(labels, np.linspace(0.1, 0.9, num_dense, dtype=np.float32))
    return Batch(bags, labels, dense, read_only, weighted)


def one_table(num_keys: int, num_columns: int) -> dict[str, Any]:
    """Arguments for a single table that all features share."""
    return {"num_embeddings": (num_keys,), "features": FeatureTables((0,) * num_columns)}


def most_rows_at_once(batches: list[Batch], prefetch_depth: int) -> int:
    """Slots taken by any iteration, the P after it and the one before it, whose slots are not free yet, at the most."""
    uses = [np.array(batch.keys, dtype=np.int64) for batch in batches]
    together = [np.concatenate(uses[i : i + prefetch_depth + 1]) for i in range(len(uses))]
    before = [0, *(len(np.unique(keys)) for keys in uses)]
    return max((len(np.unique(keys)) + more for keys, more in zip(together, before, strict=False)), default=0)


def tight_cache_rows(batches: list[Batch], num_trainers: int, prefetch_depth: int) -> int:
    """The smallest `cache_rows` that is certain to do."""
    return max(1, -(-most_rows_at_once(batches, prefetch_depth) // num_trainers))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any small stream, through caches from too small to a little too large."""
    window = draw(st.integers(0, 8), label="window")
    return draw_case(
        draw,
        num_keys=draw(st.sampled_from([12, 24, 6, 3, 1]), label="num_keys"),
        num_batches=draw(st.sampled_from([8, 14, 4, 2, 1, 0]), label="num_batches"),
        window=window,
        prefetch_depth=min(window, draw(st.integers(0, 8), label="prefetch_depth")),
    )


@st.composite
def full_cases(draw: st.DrawFn) -> Case:
    """Streams that would retain more rows than the caches hold, most of them not due soon."""
    return draw_case(
        draw,
        num_keys=draw(st.integers(12, 24), label="num_keys"),
        num_batches=draw(st.integers(8, 16), label="num_batches"),
        window=draw(st.integers(5, 10), label="window"),
        prefetch_depth=draw(st.integers(0, 2), label="prefetch_depth"),
    )


def draw_case(draw: st.DrawFn, *, num_keys: int, num_batches: int, window: int, prefetch_depth: int) -> Case:
    """Draw the batches, and sizes to suit; the keys are dealt to up to three tables, which features share."""
    num_trainers = draw(st.integers(1, 5), label="num_trainers")
    num_features = draw(st.integers(1, 3), label="num_features")
    num_tables = draw(st.integers(1, min(3, num_features)), label="num_tables")
    tables = draw(st.permutations([*range(num_tables), *[0] * (num_features - num_tables)]), label="tables")
    ragged = draw(st.sampled_from([(), *subsets(num_features)]), label="ragged")
    weighted = draw(st.sampled_from(subsets(num_features)), label="weighted")
    num_embeddings = tuple(max(1, -(-num_keys // num_tables) - table) for table in range(num_tables))
    offsets = np.concatenate([[0], np.cumsum(num_embeddings)]).tolist()
    num_dense = draw(st.integers(0, 2), label="num_dense")
    shape = st.tuples(st.integers(1, 5), st.sampled_from([False, False, True]))
    shapes = draw(st.lists(shape, min_size=num_batches, max_size=num_batches), label="samples, read_only")
    keys = [st.integers(offsets[table], offsets[table + 1] - 1) for table in tables]
    bags = [st.lists(key, min_size=f not in ragged, max_size=4 if f in ragged else 1) for f, key in enumerate(keys)]
    batches = []
    for num_samples, read_only in shapes:
        drawn = [draw(st.lists(bag, min_size=num_samples, max_size=num_samples), label="bags") for bag in bags]
        both = tuple(feature for feature in weighted if feature in ragged)
        batches.append(batch_of_bags(drawn, num_samples, num_dense=num_dense, read_only=read_only, weighted=both))
    needed = tight_cache_rows(batches, num_trainers, prefetch_depth=0)
    enough = tight_cache_rows(batches, num_trainers, prefetch_depth)
    return Case(
        batches,
        {
            "num_embeddings": num_embeddings,
            "features": FeatureTables(tuple(tables), ragged),
            "num_trainers": num_trainers,
            "num_servers": draw(st.integers(1, 3), label="num_servers"),
            "window": window,
            "prefetch_depth": prefetch_depth,
            "cache_rows": draw(st.integers(max(1, needed - 1), enough + 1), label="cache_rows"),
        },
    )


def subsets(count: int) -> list[tuple[int, ...]]:
    """Of the first numbers."""
    return [tuple(n for n in range(count) if bits >> n & 1) for bits in range(2**count)]


def zipf_case(seed: int, *, num_trainers: int, window: int, prefetch_depth: int) -> Case:
    """A longer stream with hot and cold rows through the smallest cache that is certain to do."""
    rng = np.random.default_rng(seed)
    batches = [
        batch(
            ((rng.zipf(1.2, size=(24, 4)) - 1) % 100 + [0, 100, 100, 200]).tolist(), read_only=bool(rng.random() < 0.2)
        )
        for _ in range(24)
    ]
    return Case(
        batches,
        {
            "num_embeddings": (100, 100, 100),
            "features": FeatureTables((0, 1, 1, 2)),
            "num_trainers": num_trainers,
            "num_servers": 3,
            "window": window,
            "prefetch_depth": prefetch_depth,
            "cache_rows": tight_cache_rows(batches, num_trainers, prefetch_depth),
        },
    )


def wide_case() -> Case:
    """A stream whose iterations outgrow the rings: 600, 1,500, then 2,300 new rows at one server."""
    counts, first, batches = (600, 1500, 600, 2300, 10), 0, []
    for num_rows in counts:
        batches.append(batch([[key] for key in range(first, first + num_rows)]))
        first += num_rows
    sizes = {**one_table(first, 1), "num_trainers": 2, "num_servers": 1, "window": 1, "prefetch_depth": 1}
    return Case(batches, {**sizes, "cache_rows": 2000})
