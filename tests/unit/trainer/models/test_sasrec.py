"""SASRec against its formula, sample by sample, with torch's own transformer layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model
from tests.unit.trainer.models.histories import DIM, NUM_DENSE, NUM_TABLES, SEQUENCES, elements_of, inputs
from tests.unit.trainer.models.torch_blocks import torch_block

CONFIG = ModelConfig.model_validate({"name": "sasrec", "embedding_dim": DIM, "positions": 3, "attention_blocks": 2})


def build(seed: int = 0) -> nn.Module:
    return build_model(CONFIG, NUM_DENSE, NUM_TABLES, seed, sequences=SEQUENCES)


@pytest.mark.parametrize("lengths", [[2, 0, 5, 1], [0, 0], [3], []])
def test_by_hand(lengths: list[int]) -> None:
    model = build()
    dense, embedded, sequences = inputs(lengths)
    logits = model(dense, embedded, sequences)
    assert logits.shape == (len(lengths),)
    for sample in range(len(lengths)):
        expected = torch.zeros(())
        for encoder, each in zip(model.encoders, SEQUENCES, strict=True):  # type: ignore[arg-type]
            rows = elements_of(sample, each.name, each.along, sequences)
            ages = torch.arange(len(rows) - 1, -1, -1).clamp(max=2)
            x = torch.cat([encoder.start[None], rows + encoder.elements.positions[ages]])[None]
            for block in encoder.blocks:
                x = torch_block(block)(x, src_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))
            assert each.target is not None
            expected = expected + encoder.norm(x[0, -1]) @ embedded[sample, each.target]
        torch.testing.assert_close(logits[sample], expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_input_that_counts_and_every_parameter() -> None:
    model = build()
    dense, embedded, sequences = inputs([2, 0, 5, 1, 3, 3])
    leaves = [embedded, *(each.embedded for each in sequences.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    model(dense, embedded, sequences).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_number_of_parameters_is_the_documented_one() -> None:
    block = 4 * DIM * (DIM + 1) + 8 * DIM**2 + 5 * DIM + 4 * DIM
    assert sum(each.numel() for each in build().parameters()) == 2 * (3 * DIM + 3 * DIM + 2 * block)
