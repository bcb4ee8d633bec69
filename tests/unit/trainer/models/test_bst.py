"""BST against its formula, sample by sample, with torch's own transformer layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model
from tests.unit.trainer.models.histories import DIM, NUM_DENSE, NUM_TABLES, SEQUENCES, elements_of, inputs
from tests.unit.trainer.models.torch_blocks import torch_block

CONFIG = ModelConfig.model_validate({"name": "bst", "embedding_dim": DIM, "positions": 3, "top_mlp": (5,)})


def build(seed: int = 0, num_labels: int = 1) -> nn.Module:
    return build_model(CONFIG, NUM_DENSE, NUM_TABLES, seed, (), num_labels, SEQUENCES)


@pytest.mark.parametrize("lengths", [[2, 0, 5, 1], [0, 0], [3], []])
@pytest.mark.parametrize("num_labels", [1, 2])
def test_by_hand(lengths: list[int], num_labels: int) -> None:
    model = build(num_labels=num_labels)
    dense, embedded, sequences = inputs(lengths)
    logits = model(dense, embedded, sequences)
    assert logits.shape == ((len(lengths),) if num_labels == 1 else (len(lengths), num_labels))
    for sample in range(len(lengths)):
        vectors = [dense[sample], *embedded[sample]]
        parts = zip(model.elements, model.blocks, SEQUENCES, strict=True)  # type: ignore[arg-type]
        for elements, blocks, each in parts:
            rows = elements_of(sample, each.name, each.along, sequences)
            ages = torch.arange(len(rows) - 1, -1, -1).clamp(max=2)
            assert each.target is not None
            x = torch.cat([embedded[sample, each.target][None], rows + elements.positions[ages]])[None]
            for block in blocks:
                x = torch_block(block)(x)
            vectors.append(x[0, 0])
        expected = model.top(torch.cat(vectors))  # type: ignore[operator]
        torch.testing.assert_close(logits[sample].reshape(-1), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_input_and_parameter() -> None:
    model = build()
    dense, embedded, sequences = inputs([2, 0, 5, 1, 3, 3])
    leaves = [dense, embedded, *(each.embedded for each in sequences.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    model(dense, embedded, sequences).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
