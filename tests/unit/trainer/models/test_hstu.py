"""HSTU against its formula, element by element."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model, pieces
from bagpipe_hpc.trainer.models.hstu import HSTULayer
from bagpipe_hpc.trainer.models.relative_bias import TIME_BUCKETS
from tests.unit.trainer.models.histories import DIM, NUM_DENSE, NUM_TABLES, SEQUENCES, elements_of, inputs

CONFIG = ModelConfig.model_validate(
    {"name": "hstu", "embedding_dim": DIM, "positions": 3, "top_mlp": (5,), "attention_blocks": 2}
)
TIMED = (replace(SEQUENCES[0], integers=("time",)), SEQUENCES[1])


def build(seed: int = 0, num_labels: int = 1) -> nn.Module:
    return build_model(CONFIG, NUM_DENSE, NUM_TABLES, seed, (), num_labels, TIMED)


def layer_by_hand(layer: HSTULayer, x: torch.Tensor, times: list[int] | None) -> torch.Tensor:
    """Return y, (n, DIM), of x, (n, DIM)."""
    gate, value, query, key = functional.silu(layer.inputs(layer.first_norm(x))).split(DIM, 1)
    width = DIM // 2  # of each of two heads
    mixed = torch.zeros_like(x)
    for i in range(len(x)):
        for j in range(i + 1):
            bias = layer.position_bias[min(i - j, 2)]
            if times is not None and layer.time_bias is not None:
                bias = bias + layer.time_bias[min(int(math.log2(times[i] - times[j] + 1)), TIME_BUCKETS - 1)]
            for head in range(2):
                part = slice(head * width, (head + 1) * width)
                weight = functional.silu(query[i, part] @ key[j, part] + bias) / 3
                mixed[i, part] += weight * value[j, part]
    y: torch.Tensor = x + layer.output(layer.second_norm(mixed) * gate)
    return y


@pytest.mark.parametrize("max_scores", [1 << 20, 40])
@pytest.mark.parametrize("lengths", [[2, 0, 5, 1], [0, 0], [3], []])
@pytest.mark.parametrize("num_labels", [1, 2])
@torch.no_grad()
def test_by_hand(lengths: list[int], num_labels: int, max_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_SCORES", max_scores)
    monkeypatch.setattr(pieces, "MAX_KEPT", max_scores)
    model = build(num_labels=num_labels)
    dense, embedded, sequences = inputs(lengths)
    stamps = torch.arange(sum(lengths)) ** 4
    sequences["clicked"] = replace(sequences["clicked"], elements={"time": stamps})
    logits = model(dense, embedded, sequences)
    assert logits.shape == ((len(lengths),) if num_labels == 1 else (len(lengths), num_labels))
    for sample in range(len(lengths)):
        vectors = [dense[sample], *embedded[sample]]
        for layers, each in zip(model.histories, TIMED, strict=True):  # type: ignore[arg-type]
            rows = elements_of(sample, each.name, each.along, sequences)
            start, stop = sequences[each.name].offsets[sample : sample + 2].tolist()
            times = stamps[start:stop].tolist() if each.integers else None
            if times is not None:
                times.append(times[-1] if times else 0)
            assert each.target is not None
            x = torch.cat([rows, embedded[sample, each.target][None]])
            for layer in layers:
                x = layer_by_hand(layer, x, times)
            vectors.append(x[-1])
        expected = model.top(torch.cat(vectors))  # type: ignore[operator]
        torch.testing.assert_close(logits[sample].reshape(-1), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_input_and_parameter() -> None:
    model = build()
    dense, embedded, sequences = inputs([2, 0, 5, 1, 3, 3])
    stamps = torch.arange(14) ** 4
    sequences["clicked"] = replace(sequences["clicked"], elements={"time": stamps})
    leaves = [dense, embedded, *(each.embedded for each in sequences.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    model(dense, embedded, sequences).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_number_of_parameters_is_the_documented_one() -> None:
    layer = 4 * DIM * (DIM + 1) + DIM * (DIM + 1) + 4 * DIM + 3
    top = (NUM_DENSE + (NUM_TABLES + 2) * DIM + 1) * 5 + 6
    found = sum(each.numel() for each in build().parameters())
    assert found == 2 * (layer + TIME_BUCKETS) + 2 * layer + top
