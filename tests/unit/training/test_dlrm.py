"""The model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.training.models import build_model
from bagpipe_hpc.training.models.dlrm import DLRM

CONFIG = ModelConfig(embedding_dim=4, bottom_mlp=(6,), top_mlp=(5, 3))


def inputs(num_samples: int, num_dense: int, num_tables: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(num_samples, num_dense, generator=generator)
    return dense, torch.randn(num_samples, num_tables, CONFIG.embedding_dim, generator=generator)


def test_one_sample_by_hand() -> None:
    model = build_model(CONFIG, num_dense=2, num_tables=3, seed=0)
    dense, embedded = inputs(1, 2, 3)
    parameters = {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}

    def mlp(name: str, vector: np.ndarray, layers: tuple[int, ...], last: int | None) -> np.ndarray:
        for layer in layers:
            vector = parameters[f"{name}.{layer}.weight"] @ vector + parameters[f"{name}.{layer}.bias"]
            vector = vector if layer == last else np.maximum(vector, 0)
        return vector

    bottom = mlp("bottom", dense[0].numpy(), (0, 2), None)
    vectors = [bottom, *embedded[0].numpy()]
    products = [vectors[i] @ vectors[j] for i in range(4) for j in range(i)]
    expected = mlp("top", np.concatenate([bottom, products]), (0, 2, 4), 4)
    np.testing.assert_allclose(model(dense, embedded).detach().numpy(), expected, rtol=1e-5)


def test_no_pair_counts_twice() -> None:
    """26 tables and dense features, as in Criteo's logs: 27 * 26 / 2 products and the bottom MLP's output."""
    model = DLRM(13, 26, 16, (8,), (8,), torch.Generator().manual_seed(0))
    assert model.top[0].in_features == 351 + 16


def test_no_dense_features() -> None:
    model = build_model(CONFIG, num_dense=0, num_tables=3, seed=0)
    assert not [name for name, _ in model.named_parameters() if name.startswith("bottom")]
    assert model(*inputs(7, 0, 3)).shape == (7,)


@pytest.mark.parametrize(("num_samples", "num_dense", "num_tables"), [(0, 2, 3), (1, 2, 1), (3, 0, 2)])
def test_shapes_at_the_edges(num_samples: int, num_dense: int, num_tables: int) -> None:
    logits = build_model(CONFIG, num_dense, num_tables, seed=0)(*inputs(num_samples, num_dense, num_tables))
    assert (logits.shape, logits.dtype) == ((num_samples,), torch.float32)


def test_parameters_depend_on_the_seed_only() -> None:
    first = build_model(CONFIG, 2, 3, seed=5).state_dict()
    torch.manual_seed(99)
    again, other = (build_model(CONFIG, 2, 3, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
