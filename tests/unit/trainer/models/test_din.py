"""DIN against its paper's formula, written out sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model
from tests.unit.trainer.models.histories import DIM, NUM_DENSE, NUM_TABLES, SEQUENCES, inputs

CONFIG = ModelConfig.model_validate({"name": "din", "embedding_dim": DIM, "top_mlp": (5,), "attention_mlp": (4,)})


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
        for attention, each in zip(model.attention, SEQUENCES, strict=True):  # type: ignore[arg-type]
            target, sums = embedded[sample, each.target], torch.zeros((1 + len(each.along)) * DIM)
            start, stop = sequences[each.name].offsets[sample : sample + 2].tolist()
            for place in range(start, stop):
                row = sequences[each.name].embedded[place]
                weight = attention(torch.cat([row, target, row - target, row * target]))
                companions = [sequences[name].embedded[place] for name in each.along]
                sums = sums + weight * torch.cat([row, *companions])
            vectors.append(sums)
        expected = model.top(torch.cat(vectors))  # type: ignore[operator]
        torch.testing.assert_close(logits[sample].reshape(-1), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_input_and_parameter() -> None:
    model = build()
    dense, embedded, sequences = inputs([2, 0, 5, 1, 3, 3])
    leaves = [dense, embedded, *(each.embedded for each in sequences.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    model(dense, embedded, sequences).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_parameters_depend_on_the_seed_and_their_number_is_the_documented_one() -> None:
    first, again, other = (build(seed).state_dict() for seed in (5, 5, 6))
    assert all(first[name].equal(again[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first)
    attention, num_inputs = (4 * DIM + 1) * 4 + 5, NUM_DENSE + (NUM_TABLES + 4) * DIM
    assert sum(each.numel() for each in first.values()) == 2 * attention + (num_inputs + 1) * 5 + 6
