"""The loss of each label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import LabelSchema, Schema, TableSchema
from bagpipe_hpc.trainer.objective import Objective

CLICK, RATING = LabelSchema(name="click"), LabelSchema(name="rating", kind="real")


def objective(labels: tuple[LabelSchema, ...], settings: dict[str, Any] | None = None, **schema: Any) -> Objective:
    tables = (TableSchema(name="item", num_embeddings=1),)
    config = Config.model_validate({"labels": settings or {}})
    return Objective(config, Schema(tables=tables, labels=labels, **schema), torch.device("cpu"))


def test_one_binary_label_without_settings_is_plain() -> None:
    assert objective((CLICK,)).is_plain
    assert not objective((CLICK,), {"click": {"weight": 2.0}}).is_plain
    assert not objective((CLICK,), weighted=True).is_plain
    assert not objective((RATING,)).is_plain
    assert not objective((CLICK, RATING)).is_plain


@pytest.mark.parametrize("loss", [None, "mse"])
def test_each_label_has_its_own_loss(loss: str | None) -> None:
    random = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(9, 2, generator=random), torch.randint(0, 2, (9, 2), generator=random).float()
    found = objective((CLICK, RATING), {"click": {"loss": loss, "weight": 0.5}})
    squares = (logits - labels) ** 2
    entropies = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    losses = found.losses(logits, labels)
    assert losses[:, 0].equal(squares[:, 0] if loss == "mse" else entropies[:, 0])
    assert losses[:, 1].equal(squares[:, 1])
    assert found.weights.tolist() == [0.5, 1]


def test_one_label_keeps_its_shape() -> None:
    found = objective((RATING,))
    assert found.losses(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0])).tolist() == [1, 9]
    assert found.weights.shape == ()
