"""Two towers and their loss against the formulas, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model
from bagpipe_hpc.trainer.models.two_tower import TwoTower, softmax_losses
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch
from tests.unit.trainer.models.histories import DIM, NUM_DENSE, NUM_TABLES, SEQUENCES, inputs

CONFIG = ModelConfig.model_validate(
    {"name": "two_tower", "embedding_dim": DIM, "tower_mlp": (5, 3), "temperature": 0.25}
)
ITEM, DIMS = (2, 0), (4, 3, 2, 4)
NAMES = [name for each in SEQUENCES for name in (each.name, *each.along)]


def build(seed: int = 0, dims: Sequence[int] = ()) -> TwoTower:
    return cast(TwoTower, build_model(CONFIG, NUM_DENSE, NUM_TABLES, seed, dims, 1, SEQUENCES, ITEM))


def towers_by_hand(model: TwoTower, sample: int, lengths: list[int], dims: Sequence[int]) -> tuple[Any, Any]:
    dense, embedded, sequences = inputs(lengths)
    used = dims or [DIM] * NUM_TABLES
    user = [dense[sample], *(embedded[sample, place, : used[place]] for place in (1, 3))]
    for name in NAMES:
        start, stop = sequences[name].offsets[sample : sample + 2].tolist()
        rows = sequences[name].embedded[start:stop]
        user.append(rows.mean(0) if len(rows) else torch.zeros(DIM))
    item = [embedded[sample, place, : used[place]] for place in ITEM]
    outputs = model.user(torch.cat(user)), model.item(torch.cat(item))
    return tuple(output / output.square().sum().sqrt() for output in outputs)


@pytest.mark.parametrize("lengths", [[2, 0, 5, 1], [0, 0], [3], []])
@pytest.mark.parametrize("dims", [(), DIMS])
def test_logits_by_hand(lengths: list[int], dims: Sequence[int]) -> None:
    model = build(dims=dims)
    logits = model(*inputs(lengths))
    assert logits.shape == (len(lengths),)
    for sample in range(len(lengths)):
        u, v = towers_by_hand(model, sample, lengths, dims)
        torch.testing.assert_close(logits[sample], (u * v).sum() / 0.25, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def losses_by_hand(u: torch.Tensor, v: torch.Tensor, items: list[int], counts: list[int]) -> list[float]:
    losses = []
    for i in range(len(items)):
        scores = {j: float(u[i] @ v[j]) / 0.25 - math.log(counts[j]) for j in range(len(items))}
        candidates = [scores[j] for j in scores if j == i or items[j] != items[i]]
        losses.append(math.log(sum(map(math.exp, candidates))) - scores[i])
    return losses


def test_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (functional.normalize(torch.randn(5, 3, generator=generator)) for _ in range(2))
    items, counts = [7, 3, 7, 7, 4], [9, 2, 9, 9, 2**40]
    expected = losses_by_hand(u, v, items, counts)
    found = softmax_losses(u, v, torch.tensor(items, dtype=torch.int32), torch.tensor(counts), 0.25)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_only_item_has_no_loss() -> None:
    ones = functional.normalize(torch.ones(3, 2)).requires_grad_()
    losses = softmax_losses(ones, ones, torch.zeros(3, dtype=torch.int32), torch.full((3,), 3), 0.1)
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0]
    assert ones.grad is not None
    assert ones.grad.tolist() == [[0, 0]] * 3


class Block:
    """As much of a batch as the loss needs."""

    def __init__(self, in_bfloat16: bool = False) -> None:
        self.in_bfloat16 = in_bfloat16
        self.lengths = [2, 0, 5, 1]
        self.dense, self.embedded, self.sequences = inputs(self.lengths)
        self.items, self.item_counts = torch.tensor([5, 1, 5, 0]), torch.tensor([4, 1, 4, 2])
        self.is_positive = torch.tensor([True, False, True, True])

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16)

    def mean_of_positives(self, losses: torch.Tensor) -> torch.Tensor:
        return losses[self.is_positive].sum() / 10


def test_the_loss_of_a_block() -> None:
    model, block = build(), Block()
    vectors = [towers_by_hand(model, sample, block.lengths, ()) for sample in range(4)]
    u, v = (torch.stack([pair[tower] for pair in vectors]) for tower in range(2))
    losses = losses_by_hand(u, v, block.items.tolist(), block.item_counts.tolist())
    loss = model.batch_loss(cast(TrainerBatch, block))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx((losses[0] + losses[2] + losses[3]) / 10, rel=1e-5)


def test_only_towers_compute_in_bfloat16() -> None:
    model, block = build(), Block(in_bfloat16=True)
    with block.precision():
        u, v = model.vectors(block.dense, block.embedded, block.sequences)
    losses = losses_by_hand(u, v, block.items.tolist(), block.item_counts.tolist())
    loss = model.batch_loss(cast(TrainerBatch, block))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx((losses[0] + losses[2] + losses[3]) / 10, rel=1e-5)


def test_gradients_reach_every_input_and_parameter() -> None:
    model, block = build(), Block()
    leaves = [block.dense, block.embedded, *(each.embedded for each in block.sequences.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    model.batch_loss(cast(TrainerBatch, block)).backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    item_of_negative = cast(torch.Tensor, block.embedded.grad)[1, list(ITEM)]
    assert item_of_negative.any(), "the item of a sample with label 0 is a candidate"


def test_parameters_depend_on_the_seed_and_their_number_is_the_documented_one() -> None:
    first, again, other = (nn.Module.state_dict(build(seed)) for seed in (5, 5, 6))
    assert all(first[name].equal(again[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first)
    user, item = NUM_DENSE + (2 + 4) * DIM, 2 * DIM
    assert sum(each.numel() for each in first.values()) == (user + 1) * 5 + (item + 1) * 5 + 2 * 6 * 3
