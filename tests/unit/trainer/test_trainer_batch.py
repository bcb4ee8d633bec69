"""What a training loop may do with a batch. That its steps are the right ones is for test_step.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import LabelSchema, Schema, TableSchema
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.base import PlacedSamples
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.objective import Objective
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, row_gradients, skip_step, train_on_labels

CLICKS = Schema(tables=(TableSchema(name="site", num_embeddings=5), TableSchema(name="ad", num_embeddings=5)))


class Plan:
    """As much of a plan as a batch needs."""

    def __init__(self, num_samples: int) -> None:
        self.num_trained, self.num_global_samples = 7, 10


class Model(nn.Module):
    """Sums everything up."""

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return dense.sum(1) + embedded.sum((1, 2))


def placed(labels: torch.Tensor, **others: Any) -> PlacedSamples:
    """Return samples with these labels and with dense features, which have no ids."""
    none = torch.empty(0, dtype=torch.int64)
    return PlacedSamples(labels, torch.randn(len(labels), 2), none, none, torch.empty(0), [], **others)


def make_batch(
    num_samples: int = 4,
    in_bfloat16: bool = False,
    *,
    samples: PlacedSamples | None = None,
    schema: Schema = CLICKS,
    config: Config | None = None,
    model: nn.Module | None = None,
) -> tuple[TrainerBatch, list[torch.Tensor]]:
    torch.manual_seed(0)
    rows = torch.randn(5, 3, requires_grad=True)
    losses: list[torch.Tensor] = []
    batch = TrainerBatch(
        cast(TrainerPlan, Plan(num_samples)),
        samples=samples or placed(torch.arange(num_samples, dtype=torch.float32) % 2),
        objective=Objective(config or Config(), schema, torch.device("cpu")),
        embedded=functional.embedding(torch.arange(2 * num_samples).view(-1, 2) % 5, rows),
        sequences={},
        rows=rows,
        table_names=("site", "ad"),
        model=(used := model or Model()),
        forward=used,
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


def several_labels() -> tuple[Schema, PlacedSamples]:
    """Return samples with two labels, the second of which may be missing, weights and groups."""
    labels = (LabelSchema(name="click"), LabelSchema(name="stars", kind="real", optional=True))
    nan = float("nan")
    samples = placed(
        torch.tensor([[1, 3.5], [0, nan], [0, -2], [1, nan]]),
        sample_weights=torch.tensor([1, 0.5, 0, 2]),
        groups=torch.tensor([7, 7, 8, 8]),
        loss_divisors=torch.tensor([4.0, 1.5]),
    )
    return Schema(tables=CLICKS.tables, labels=labels, weighted=True, group="user"), samples


class TwoHeads(Model):
    """Two different sums."""

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        logits = super().forward(dense, embedded)
        return torch.stack([logits, 2 * logits], dim=1)


def test_several_labels_with_weights_and_missing_ones() -> None:
    schema, samples = several_labels()
    config = Config.model_validate({"labels": {"stars": {"weight": 0.25}}})
    batch, _ = make_batch(samples=samples, schema=schema, config=config, model=TwoHeads())
    logits = batch.logits()
    weights = samples.sample_weights.double()
    click = functional.binary_cross_entropy_with_logits(logits[:, 0], batch.labels[:, 0], reduction="none")
    stars = (logits[:, 1] - batch.labels[:, 1]) ** 2
    expected = (click * weights).sum() / 4 + 0.25 * stars[0] * 1 / 1.5
    assert batch.has_label is not None
    assert batch.has_label.tolist() == [[True, True], [True, False], [True, True], [True, False]]
    assert batch.labels[1].tolist() == [0, 0]
    assert batch.groups is not None
    assert batch.groups.tolist() == [7, 7, 8, 8]
    assert float(batch.loss().detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    batch.step(batch.loss())
    assert row_gradients(batch).isfinite().all()


def test_the_mean_of_the_samples_whose_label_is_1() -> None:
    schema, samples = several_labels()
    batch, _ = make_batch(samples=replace(samples, positive_weights=torch.tensor([3.0, 1.0])), schema=schema)
    losses = torch.tensor([[1, 0], [torch.inf, 0], [torch.inf, 0], [5, 0]])
    assert batch.mean_of_positives(losses).tolist() == pytest.approx([(1 * 1 + 2 * 5) / 3, 0])
    with pytest.raises(OwnModelError, match=r"mean_of_positives\(\) was given losses of shape \(4,\) for 4 samples"):
        batch.mean_of_positives(losses[:, 0])
    with pytest.raises(OwnModelError, match=r"only jobs that count items know: set model\.item_features"):
        make_batch()[0].mean_of_positives(torch.zeros(4))


class OwnLoss(Model):
    """A model that says what its loss is."""

    def batch_loss(self, batch: TrainerBatch) -> torch.Tensor:
        return batch.mean(batch.logits().square())


def test_a_model_may_have_a_loss_of_its_own() -> None:
    batch, losses = make_batch(model=OwnLoss())
    train_on_labels(batch)
    assert losses[0].equal(batch.mean(batch.logits().square()))
    assert batch.items is None
    assert batch.item_counts is None


def test_a_missing_label_changes_no_gradient() -> None:
    schema, samples = several_labels()
    gradients = []
    for value in (0.0, 1e6):  # whatever a training loop computes where the label is missing
        batch, _ = make_batch(samples=samples, schema=schema, model=TwoHeads())
        assert batch.has_label is not None
        losses = (batch.logits() - batch.labels.masked_fill(~batch.has_label, value)).square()
        batch.step(batch.mean(losses).sum())
        gradients.append(row_gradients(batch))
    assert gradients[0].equal(gradients[1])


def test_the_mean_of_several_labels_wants_a_loss_for_each() -> None:
    schema, samples = several_labels()
    batch, _ = make_batch(samples=samples, schema=schema, model=TwoHeads())
    with pytest.raises(OwnModelError, match=r"takes one loss per sample and label, shape \(4, 2\)"):
        batch.mean(torch.zeros(4))


def test_weights_of_one_leave_the_loss_as_it_is() -> None:
    plain, _ = make_batch()
    schema = Schema(tables=CLICKS.tables, weighted=True)
    labels = torch.arange(4, dtype=torch.float32) % 2
    samples = placed(labels, sample_weights=torch.ones(4), loss_divisors=torch.tensor([10.0]))
    samples = replace(samples, dense=plain.dense)
    weighted, _ = make_batch(samples=samples, schema=schema)
    assert float(weighted.loss().detach()) == pytest.approx(float(plain.loss().detach()), rel=1e-6)
