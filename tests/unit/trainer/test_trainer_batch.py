"""What a training loop may do with a batch. That its steps are the right ones is for test_step.py."""

from __future__ import annotations

from functools import partial
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, row_gradients, skip_step, train_on_labels


class Plan:
    """As much of a plan as a batch needs."""

    def __init__(self, num_samples: int) -> None:
        self.num_trained, self.num_global_samples = 7, 10


class Model(nn.Module):
    """Sums everything up."""

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return dense.sum(1) + embedded.sum((1, 2))


def make_batch(num_samples: int = 4, in_bfloat16: bool = False) -> tuple[TrainerBatch, list[torch.Tensor]]:
    torch.manual_seed(0)
    rows = torch.randn(5, 3, requires_grad=True)
    losses: list[torch.Tensor] = []
    batch = TrainerBatch(
        cast(TrainerPlan, Plan(num_samples)),
        labels=torch.arange(num_samples, dtype=torch.float32) % 2,
        dense=torch.randn(num_samples, 2),
        embedded=functional.embedding(torch.arange(2 * num_samples).view(-1, 2) % 5, rows),
        rows=rows,
        table_names=("site", "ad"),
        model=(model := Model()),
        forward=model,
        precision=partial(CpuDevice().autocast, enabled=in_bfloat16),
        before_backward=losses.append,
    )
    return batch, losses


def test_ordinary_tensors() -> None:
    batch, _ = make_batch()
    assert (len(batch), batch.iteration, batch.num_global_samples) == (4, 7, 10)
    assert batch["ad"].equal(batch.embedded[:, 1])
    assert batch.logits().equal(batch.model(batch.dense, batch.embedded))
    assert batch.embedded.requires_grad
    with pytest.raises(KeyError, match="there is no table 'shop'; the tables are site, ad"):
        batch["shop"]


def test_a_step_on_the_mean_is_one_on_the_labels() -> None:
    (mine, my_losses), (builtin, losses) = make_batch(), make_batch()
    mine.step(mine.mean(functional.binary_cross_entropy_with_logits(mine.logits(), mine.labels, reduction="none")))
    train_on_labels(builtin)
    assert my_losses[0].equal(losses[0])
    assert row_gradients(mine).equal(row_gradients(builtin))


def test_a_loss_that_needs_no_row_gives_zeros() -> None:
    batch, _ = make_batch()
    batch.step(nn.Parameter(torch.ones(())) * 3)
    assert row_gradients(batch).equal(torch.zeros(5, 3))


def test_no_samples_are_no_loss() -> None:
    batch, losses = make_batch(0)
    skip_step(batch)
    assert losses[0] == 0
    assert row_gradients(batch).equal(torch.zeros(5, 3))


def test_logits_in_bfloat16_are_float32() -> None:
    assert make_batch(in_bfloat16=True)[0].logits().dtype == torch.float32


def test_one_step_per_batch() -> None:
    batch, _ = make_batch()
    with pytest.raises(OwnModelError, match=r"no step in iteration 7: call session\.step\(loss\) on every batch"):
        row_gradients(batch)
    train_on_labels(batch)
    with pytest.raises(OwnModelError, match="a second step in iteration 7"):
        train_on_labels(batch)


def test_backward_is_part_of_the_step() -> None:
    batch, losses = make_batch()
    loss = batch.mean(batch.logits())
    loss.backward(retain_graph=True)
    with pytest.raises(OwnModelError, match=r"backward\(\) was called in iteration 7, so gradients would count twice"):
        batch.step(loss)
    assert losses == []


def test_what_is_no_loss() -> None:
    batch, losses = make_batch()
    for loss, words in [
        (batch.logits(), r"a tensor of shape \(4,\) with gradient"),
        (batch.labels.sum(), r"a tensor of shape \(\) without gradient"),
        (0.5, "a float"),
    ]:
        with pytest.raises(OwnModelError, match=rf"step\(\) was given {words}: it takes a scalar"):
            batch.step(cast(torch.Tensor, loss))
    with pytest.raises(OwnModelError, match=r"losses of shape \(\) for 4 samples"):
        batch.mean(batch.logits().sum())
    assert losses == []
