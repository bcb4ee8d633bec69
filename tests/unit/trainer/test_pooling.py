"""Pooling against loops, and against torch.nn.EmbeddingBag."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.base import PlacedSamples
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.pooling import Pooling

NUM_ROWS, DIM = 20, 3
SCHEMA = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
        TableSchema(name="item", num_embeddings=9, shares="tags"),
    )
)  # dealt: tags, topics, item; site


def config_of(*means: str) -> Config:
    return Config.model_validate({"tables": {name: {"pooling": "mean"} for name in means}})


def rows_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(seed))


def plan(sample_rows: list[int], num_samples: int, lengths: list[int], weights: list[float]) -> PlacedSamples:
    """Samples without labels and dense features; lengths are those of all ragged features, one after the other."""
    num_ragged = len(lengths) // num_samples if num_samples else 0
    bag_lengths = np.array(lengths, np.int64).reshape(num_ragged, num_samples)
    return PlacedSamples(
        labels=torch.zeros(num_samples),
        dense=torch.zeros(num_samples, 0),
        sample_rows=torch.tensor(sample_rows, dtype=torch.int32),
        bag_lengths=torch.from_numpy(bag_lengths),
        weights=torch.tensor(weights),
        num_ids=bag_lengths.sum(axis=1).tolist(),
    )


bag = st.lists(st.integers(0, NUM_ROWS - 1), max_size=4)
sample = st.tuples(bag, st.integers(0, NUM_ROWS - 1), bag, st.integers(0, NUM_ROWS - 1))


@settings(deadline=None)
@given(st.lists(sample, max_size=5), st.booleans(), st.randoms(use_true_random=False))
def test_equals_loops(samples: list[tuple[list[int], int, list[int], int]], is_mean: bool, random: Any) -> None:
    weights = [[random.choice([-0.5, 0.5, 1.0, 3.0]) for _ in topics] for _, _, topics, _ in samples]
    dealt = [key for tags, *_ in samples for key in tags] + [key for _, _, topics, _ in samples for key in topics]
    dealt += [item for *_, item in samples] + [site for _, site, *_ in samples]
    lengths = [len(tags) for tags, *_ in samples] + [len(topics) for _, _, topics, _ in samples]
    rows = rows_of()
    pooling = Pooling(SCHEMA, config_of("tags", "topics") if is_mean else Config(), CpuDevice())
    vectors = pooling(plan(dealt, len(samples), lengths, [w for each in weights for w in each]), rows)
    assert vectors.shape == (len(samples), 4, DIM)
    for vector, (tags, site, topics, item), topic_weights in zip(vectors, samples, weights, strict=True):
        assert torch.equal(vector[0], pooled(rows, tags, [1.0] * len(tags), is_mean))
        assert torch.equal(vector[1], rows[site])
        assert torch.equal(vector[2], pooled(rows, topics, topic_weights, is_mean))
        assert torch.equal(vector[3], rows[item])


def test_items_are_told_apart_by_their_rows() -> None:
    samples = plan([1, 2, 3, 4, 5, 6, 7, 6, 8, 9], 2, [2, 1, 0, 3], [1.0] * 3)  # tags, topics, item, site
    for named, rows in ((("item",), [7, 6]), (("site", "tags"), [8, 9])):
        model = {"name": "two_tower", "item_features": named}
        items = Pooling(SCHEMA, Config.model_validate({"model": model}), CpuDevice()).items(samples)
        assert items is not None
        assert items.tolist() == rows
    assert Pooling(SCHEMA, Config(), CpuDevice()).items(samples) is None


def pooled(rows: torch.Tensor, ids: list[int], weights: list[float], is_mean: bool) -> torch.Tensor:
    total, divisor = torch.zeros(DIM), torch.zeros(())
    for row, weight in zip(ids, weights, strict=True):
        total = total + rows[row] * weight
        divisor = divisor + weight
    return total / divisor if is_mean and divisor else total


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_is_close_to_embedding_bag(mode: str, is_weighted: bool) -> None:
    """Forwards and backwards; torch knows no weighted mean."""
    if is_weighted and mode == "mean":
        return
    random = np.random.default_rng(0)
    lengths = random.integers(0, 5, 40)
    ids = random.integers(0, NUM_ROWS, lengths.sum())
    weights = random.random(len(ids)).astype(np.float32)
    tables = (TableSchema(name="tags", num_embeddings=NUM_ROWS, ragged=True, weighted=is_weighted),)
    mine, theirs = rows_of().requires_grad_(), rows_of().requires_grad_()
    vectors = Pooling(Schema(tables=tables), config_of("tags") if mode == "mean" else Config(), CpuDevice())(
        plan(ids.tolist(), 40, lengths.tolist(), weights.tolist() if is_weighted else []), mine
    )
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
    embedding_bag = nn.EmbeddingBag.from_pretrained(theirs, freeze=False, mode=mode)
    expected = embedding_bag(torch.from_numpy(ids), offsets, torch.from_numpy(weights) if is_weighted else None)
    torch.testing.assert_close(vectors[:, 0], expected)
    direction = torch.randn(40, DIM, generator=torch.Generator().manual_seed(1))
    (vectors[:, 0] * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(mine.grad, embedding_bag.weight.grad)


def test_gradients_do_not_depend_on_where_rows_stand() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 5, 2_000)
    ids = random.integers(0, NUM_ROWS, lengths.sum())
    tables = (TableSchema(name="tags", num_embeddings=NUM_ROWS, ragged=True),)
    direction = torch.randn(2_000, DIM, generator=torch.Generator().manual_seed(1))
    gradients = []
    for order in (np.arange(NUM_ROWS), random.permutation(NUM_ROWS)):
        rows = rows_of()[torch.from_numpy(order)].requires_grad_()
        places = np.argsort(order)[ids]
        vectors = Pooling(Schema(tables=tables), config_of("tags"), CpuDevice())(
            plan(places.tolist(), 2_000, lengths.tolist(), []), rows
        )
        (vectors[:, 0] * direction).sum().backward()
        assert rows.grad is not None
        gradients.append(rows.grad[torch.from_numpy(np.argsort(order))])
    assert torch.equal(*gradients)


def test_one_id_each_in_shared_tables() -> None:
    tables = (
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="site", num_embeddings=9),
        TableSchema(name="next", num_embeddings=9, shares="item"),
    )  # dealt: item, next, site
    vectors = Pooling(Schema(tables=tables), Config(), CpuDevice())(plan([0, 1, 2, 3, 4, 5], 2, [], []), rows_of())
    assert torch.equal(vectors, rows_of()[torch.tensor([[0, 4, 2], [1, 5, 3]])])


def test_columns_that_a_table_does_not_use() -> None:
    """Zero, without a gradient; features have the columns of their table, and first-order weights are always used."""
    config = Config.model_validate(
        {"model": {"name": "wide_deep", "embedding_dim": 2}, "tables": {"tags": {"embedding_dim": 1}}}
    )
    rows = rows_of().requires_grad_()
    vectors = Pooling(SCHEMA, config, CpuDevice())(plan([0, 1, 2, 3], 1, [1, 1], [2.0]), rows)
    masked = rows.detach() * torch.tensor([1, 0, 1])
    assert torch.equal(vectors[0], torch.stack([masked[0], rows[3], 2 * masked[1], masked[2]]))
    vectors.sum().backward()
    assert rows.grad is not None
    assert rows.grad[:4].tolist() == [[1, 0, 1], [2, 0, 2], [1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("schema", [SCHEMA, Schema(tables=(TableSchema(name="item", num_embeddings=9),))])
def test_no_gradient_of_a_row_is_minus_zero(schema: Schema) -> None:
    """So a block that does not use a row adds nothing, as zeros would."""
    rows = rows_of().requires_grad_()
    is_ragged = len(schema.tables) > 1
    one = plan([3, 3, 5, 2, 1], 1, [2, 1], [-1.0]) if is_ragged else plan([3], 1, [], [])
    vectors = Pooling(schema, Config(), CpuDevice())(one, rows)
    vectors.backward(torch.full_like(vectors, -0.0))
    assert rows.grad is not None
    assert not rows.grad.signbit().any()
