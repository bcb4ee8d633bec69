"""Every model against its paper's formula, written out for one sample in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models import build_model

Array = NDArray[np.float64]
Formula = Callable[["Parameters", Array, Array], float]

DIM, NUM_TABLES = 3, 5


class Parameters(dict[str, Array]):
    """Parameters by name, in float64."""

    def linear(self, name: str, vector: Array) -> Array:
        return self[f"{name}.weight"] @ vector + self.get(f"{name}.bias", np.zeros(1))

    def mlp(self, name: str, vector: Array, num_layers: int, last_relu: bool = False) -> Array:
        for layer in range(num_layers):
            vector = self.linear(f"{name}.{2 * layer}", vector)
            vector = relu(vector) if last_relu or layer < num_layers - 1 else vector
        return vector


def relu(vector: Array) -> Array:
    return np.maximum(vector, 0)


def pairs(vectors: list[Array]) -> Array:
    return np.array([vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)])


def fields(parameters: Parameters, dense: Array, embedded: Array) -> Array:
    return np.concatenate([dense[:, None] * parameters["fields.vectors"], embedded])


def dlrm(parameters: Parameters, dense: Array, rows: Array) -> float:
    bottom = parameters.mlp("bottom", dense, 2, last_relu=True)
    return parameters.mlp("top", np.concatenate([bottom, pairs([bottom, *rows])]), 3).item()


def wide_deep(parameters: Parameters, dense: Array, rows: Array) -> float:
    wide = parameters["wide.weights"] @ dense + rows[:, DIM].sum()
    return float((wide + parameters.mlp("deep", np.concatenate([dense, rows[:, :DIM].ravel()]), 3)).item())


def deepfm(parameters: Parameters, dense: Array, rows: Array) -> float:
    vectors = fields(parameters, dense, rows[:, :DIM])
    first_order = parameters["first_order.weights"] @ dense + rows[:, DIM].sum()
    return float((first_order + pairs([*vectors]).sum() + parameters.mlp("deep", vectors.ravel(), 3)).item())


def dcn(parameters: Parameters, dense: Array, rows: Array) -> float:
    first = crossed = np.concatenate([dense, rows.ravel()])
    for layer in range(2):
        weight, bias = parameters[f"cross.{layer}.weight.weight"][0], parameters[f"cross.{layer}.bias"]
        crossed = first * (crossed @ weight) + bias + crossed
    deep = parameters.mlp("deep", first, 2, last_relu=True)
    return parameters.linear("output", np.concatenate([crossed, deep])).item()


def dcn_v2(parameters: Parameters, dense: Array, rows: Array) -> float:
    first = crossed = np.concatenate([dense, rows.ravel()])
    for layer in range(2):
        name = f"cross.{layer}"
        weight = parameters[f"{name}.linear.weight"]
        if f"{name}.down.weight" in parameters:
            weight = weight @ parameters[f"{name}.down.weight"]
        crossed = first * (weight @ crossed + parameters[f"{name}.linear.bias"]) + crossed
    deep = parameters.mlp("deep", first, 2, last_relu=True)
    return parameters.linear("output", np.concatenate([crossed, deep])).item()


def fgcnn(parameters: Parameters, dense: Array, rows: Array) -> float:
    both = fields(parameters, dense, rows)
    vectors, maps = [*both[:, :DIM]], both[None, :, DIM:]
    for layer in range(2):
        kernels = parameters[f"generation.{layer}.convolution.weight"][..., 0]  # (out, in, 3)
        biases = parameters[f"generation.{layer}.convolution.bias"]
        padded = np.pad(maps, ((0, 0), (1, 1), (0, 0)))
        windows = np.stack([padded[:, row : row + 3] for row in range(maps.shape[1])])  # (height, in, 3, dim)
        convolved = np.tanh(np.einsum("hikd,oik->ohd", windows, kernels) + biases[:, None, None])
        maps = np.stack([convolved[:, row : row + 2].max(1) for row in range(0, convolved.shape[1], 2)], axis=1)
        generated = np.tanh(parameters.linear(f"generation.{layer}.recombination", maps.ravel()))
        vectors += [*generated.reshape(-1, DIM)]
    return parameters.mlp("top", np.concatenate([*vectors, pairs(vectors)]), 3).item()


def caser(parameters: Parameters, dense: Array, rows: Array) -> float:
    user, candidate, image = rows[0], rows[1], rows[2:]
    features = []
    for height in range(1, len(image) + 1):
        kernels = parameters[f"horizontal.{height - 1}.weight"][:, 0]  # (filters, height, dim)
        biases = parameters[f"horizontal.{height - 1}.bias"]
        starts = range(len(image) - height + 1)
        features.append(np.max([relu((kernels * image[s : s + height]).sum((1, 2)) + biases) for s in starts], axis=0))
    sums = parameters["vertical.weight"][:, 0, :, 0] @ image + parameters["vertical.bias"][:, None]
    z = relu(parameters.linear("hidden", np.concatenate([*features, sums.ravel()])))
    factor, factor_bias = parameters["output.weight"], parameters["output.bias"]
    return float((candidate @ factor) @ np.concatenate([z, user]) + candidate @ factor_bias)


def dlrm_dcn(parameters: Parameters, dense: Array, rows: Array) -> float:
    x = first = np.concatenate([parameters.mlp("bottom", dense, 2, last_relu=True), rows.ravel()])
    for layer in range(2):
        inner = parameters[f"cross.{layer}.down.weight"] @ x if f"cross.{layer}.down.weight" in parameters else x
        x = first * parameters.linear(f"cross.{layer}.linear", inner) + x
    return float(parameters.mlp("top", x, 3).item())


def mmoe(parameters: Parameters, dense: Array, rows: Array) -> float:
    x = np.concatenate([dense, rows.ravel()])
    experts = [parameters.mlp(f"experts.{number}", x, 2, last_relu=True) for number in range(3)]
    gate = np.exp(parameters["gates.0.weight"] @ x)
    mixed = sum(g * expert for g, expert in zip(gate / gate.sum(), experts, strict=True))
    return float(parameters.mlp("towers.0", np.asarray(mixed), 3).item())


FORMULAS: list[tuple[Formula, dict[str, object]]] = [
    (dlrm, {"bottom_mlp": (4,)}),
    (wide_deep, {}),
    (deepfm, {}),
    (dcn, {"cross_layers": 2}),
    (dcn_v2, {"cross_layers": 2}),
    (dcn_v2, {"cross_layers": 2, "cross_rank": 2}),
    (fgcnn, {"cnn_channels": (2, 3), "cnn_height": 3}),
    (dlrm_dcn, {"bottom_mlp": (4,), "cross_layers": 2}),
    (dlrm_dcn, {"bottom_mlp": (4,), "cross_layers": 2, "cross_rank": 2}),
    (mmoe, {"experts": 3, "expert_mlp": (5, 4)}),
    (caser, {"horizontal_filters": 3, "vertical_filters": 2}),
]


@pytest.mark.parametrize(
    ("formula", "settings", "seed"), [(*item, seed) for item, seed in itertools.product(FORMULAS, range(3))]
)
def test_one_sample_by_hand(formula: Formula, settings: dict[str, object], seed: int) -> None:
    name = formula.__name__
    config = ModelConfig.model_validate({"name": name, "embedding_dim": DIM, "top_mlp": (6, 4), **settings})
    num_dense = 0 if name == "caser" else 2
    model = build_model(config, num_dense, NUM_TABLES, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():  # first-order weights and cross biases start as zero: not here
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    dense = torch.randn(1, num_dense, generator=generator)
    embedded = torch.randn(1, NUM_TABLES, config.row_dim, generator=generator)
    parameters = Parameters({name: p.detach().double().numpy() for name, p in model.named_parameters()})
    expected = formula(parameters, dense[0].double().numpy(), embedded[0].double().numpy())
    np.testing.assert_allclose(model(dense, embedded).item(), expected, rtol=2e-5, atol=1e-5)
