"""What holds for every model: shapes, sizes, seeds, gradients, and equality with nn.Embedding tables, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.models import MODELS, build_model
from bagpipe_hpc.trainer.row_optimizer import RowSGD

DIM, TOP = 4, (6, 3)
NUM_EMBEDDINGS = (5, 30, 11, 11, 11)
SETTINGS: dict[str, dict[str, object]] = {
    "dlrm": {"bottom_mlp": (7,)},
    "wide_deep": {},
    "deepfm": {},
    "dcn": {"cross_layers": 2},
    "dcn_v2": {"cross_layers": 2},
    "dcn_v2 low-rank": {"cross_layers": 2, "cross_rank": 3},
    "fgcnn": {"cnn_channels": (2, 3), "cnn_height": 3},
    "dlrm_dcn": {"bottom_mlp": (7,), "cross_layers": 2},
    "dlrm_dcn low-rank": {"bottom_mlp": (7,), "cross_layers": 2, "cross_rank": 3},
    "mmoe": {"experts": 3, "expert_mlp": (6, 4)},
    "caser": {"horizontal_filters": 3, "vertical_filters": 2},
}
CONFIGS = {
    case: ModelConfig.model_validate({"name": case.split()[0], "embedding_dim": DIM, "top_mlp": TOP, **settings})
    for case, settings in SETTINGS.items()
}
CASES = [(case, num_dense) for case in CONFIGS for num_dense in ((0,) if case == "caser" else (0, 2))]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(case: str, num_dense: int, seed: int = 0) -> nn.Module:
    return build_model(CONFIGS[case], num_dense, len(NUM_EMBEDDINGS), seed)


def inputs(case: str, num_dense: int, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(num_samples, num_dense, generator=generator)
    return dense, torch.randn(num_samples, len(NUM_EMBEDDINGS), CONFIGS[case].row_dim, generator=generator)


def test_every_model_is_a_case() -> None:
    assert {config.name for config in CONFIGS.values()} == MODELS.keys()


@pytest.mark.parametrize("num_samples", [0, 1, 7])
@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_one_logit_per_sample(case: str, num_dense: int, num_samples: int) -> None:
    model, (dense, embedded) = build(case, num_dense), inputs(case, num_dense, num_samples)
    logits = model(dense, embedded.requires_grad_())
    assert (logits.shape, logits.dtype) == ((num_samples,), torch.float32)
    logits.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_samples_are_independent_and_in_order(case: str, num_dense: int) -> None:
    model, (dense, embedded) = build(case, num_dense), inputs(case, num_dense, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))[:13]
    torch.testing.assert_close(model(dense[order], embedded[order]), model(dense, embedded)[order])


@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_gradients_reach_every_input_and_parameter(case: str, num_dense: int) -> None:
    model, (dense, embedded) = build(case, num_dense), inputs(case, num_dense, 50)
    model(dense.requires_grad_(), embedded.requires_grad_()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or parameter.numel() == 0, name
    assert embedded.grad is not None
    assert embedded.grad.any(0).all(), "some column of some table has no use"
    assert dense.grad is None or dense.grad.any(0).all()


@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_parameters_depend_on_the_seed_only(case: str, num_dense: int) -> None:
    first = build(case, num_dense, seed=5).state_dict()
    torch.manual_seed(99)
    again, other = (build(case, num_dense, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    random = [name for name in first if first[name].any()]
    assert len(random) > len(first) / 2
    assert not any(torch.equal(first[name], other[name]) for name in random)


def mlp_size(*sizes: int) -> int:
    return sum((num_inputs + 1) * num_outputs for num_inputs, num_outputs in itertools.pairwise(sizes))


def fgcnn_size(num_dense: int, num_fields: int, channels: Sequence[int], height: int, new_features: int) -> int:
    total, num_vectors, maps, pooled = 2 * num_dense * DIM, num_fields, 1, num_fields
    for following in channels:
        pooled = (pooled + 1) // 2
        total += (maps * height + 1) * following + (pooled * DIM * following + 1) * pooled * DIM * new_features
        num_vectors, maps = num_vectors + new_features * pooled, following
    return total + mlp_size(num_vectors * DIM + num_vectors * (num_vectors - 1) // 2, *TOP, 1)


def caser_size(k: int, horizontal: int, vertical: int) -> int:
    convolutions = horizontal * (DIM * k * (k + 1) // 2 + k) + vertical * (k + 1)
    return convolutions + (k * horizontal + DIM * vertical + 1) * DIM + (2 * DIM + 1) * DIM


@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_parameter_counts_are_as_documented(case: str, num_dense: int) -> None:
    num_fields = num_dense + 5
    width = num_dense + 5 * DIM
    num_vectors = 5 + (num_dense > 0)
    bottom, bottom_width = (mlp_size(num_dense, 7, DIM), DIM) if num_dense else (0, 0)
    vectors = num_vectors * DIM
    output = width + TOP[-1] + 1
    expected = {
        "dlrm": bottom + mlp_size(num_vectors * (num_vectors - 1) // 2 + bottom_width, *TOP, 1),
        "wide_deep": num_dense + mlp_size(width, *TOP, 1),
        "deepfm": num_dense * (DIM + 1) + mlp_size(num_fields * DIM, *TOP, 1),
        "dcn": 2 * width * 2 + mlp_size(width, *TOP) + output,
        "dcn_v2": (width + 1) * width * 2 + mlp_size(width, *TOP) + output,
        "dcn_v2 low-rank": (2 * 3 + 1) * width * 2 + mlp_size(width, *TOP) + output,
        "fgcnn": fgcnn_size(num_dense, num_fields, (2, 3), height=3, new_features=2),
        "dlrm_dcn": bottom + ((vectors + 1) * vectors) * 2 + mlp_size(vectors, *TOP, 1),
        "dlrm_dcn low-rank": bottom + (2 * 3 + 1) * vectors * 2 + mlp_size(vectors, *TOP, 1),
        "mmoe": 3 * mlp_size(width, 6, 4) + 3 * width + mlp_size(4, *TOP, 1),
        "caser": caser_size(k=3, horizontal=3, vertical=2),
    }
    assert sum(parameter.numel() for parameter in build(case, num_dense).parameters()) == expected[case]


# Equality with plain PyTorch

KEY_SPACE = KeySpace(NUM_EMBEDDINGS)
STEPS, SAMPLES, LEARNING_RATE = 5, 23, 0.3


def batches(num_dense: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(dense, ids within their tables, labels), with ids that repeat."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        ids = np.stack([(random.random(SAMPLES) ** 2 * n).astype(np.int64) for n in NUM_EMBEDDINGS], axis=1)
        dense = random.normal(size=(SAMPLES, num_dense)).astype(np.float32)
        labels = random.integers(0, 2, SAMPLES).astype(np.float32)
        yield torch.from_numpy(dense), torch.from_numpy(ids), torch.from_numpy(labels)


def initial_rows(case: str) -> torch.Tensor:
    rows = np.empty((KEY_SPACE.num_keys, CONFIGS[case].row_dim), dtype=np.float32)
    RowInitializer(KEY_SPACE, CONFIGS[case].embedding_columns, seed=3).fill(np.arange(KEY_SPACE.num_keys), rows)
    return torch.from_numpy(rows)


def tables_of(rows: torch.Tensor) -> nn.ModuleList:
    pieces = rows.split(list(NUM_EMBEDDINGS))
    return nn.ModuleList(nn.Embedding.from_pretrained(piece.clone(), freeze=False) for piece in pieces)


def plain_training(case: str, num_dense: int) -> tuple[torch.Tensor, nn.Module]:
    """One nn.Embedding per table for vectors, and one for first-order weights where the model has them."""
    model, width = build(case, num_dense), CONFIGS[case].embedding_columns
    groups = [tables_of(rows) for rows in initial_rows(case).split(width, dim=1)]
    parameters = itertools.chain(model.parameters(), *(group.parameters() for group in groups))
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    for dense, ids, labels in batches(num_dense):
        parts = [torch.stack([table(ids[:, t]) for t, table in enumerate(group)], dim=1) for group in groups]
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(model(dense, torch.cat(parts, dim=2)), labels).backward()
        optimizer.step()
    columns = [torch.cat([weight.detach() for weight in group.parameters()]) for group in groups]
    return torch.cat(columns, dim=1), model


def row_training(case: str, num_dense: int) -> tuple[torch.Tensor, nn.Module]:
    """Whole rows by key: the unique ones of a batch are gathered, trained and written back."""
    model, rows = build(case, num_dense), initial_rows(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for dense, ids, labels in batches(num_dense):
        keys, positions = (ids + torch.from_numpy(KEY_SPACE.table_offsets[:-1])).unique(return_inverse=True)
        gathered = rows[keys].requires_grad_()
        optimizer.zero_grad()
        logits = model(dense, functional.embedding(positions, gathered))
        functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
        assert gathered.grad is not None
        updated = gathered.detach()
        RowSGD(LearningRate(LEARNING_RATE)).step(updated, gathered.grad, 1)
        rows[keys] = updated
    return rows, model


@pytest.mark.parametrize(("case", "num_dense"), CASES)
def test_rows_learn_what_plain_tables_learn(case: str, num_dense: int) -> None:
    (rows, model), (plain_rows, plain_model) = row_training(case, num_dense), plain_training(case, num_dense)
    assert torch.equal(rows, plain_rows)
    assert (rows != initial_rows(case)).any(0).all(), "some column did not learn"
    for parameter, plain in zip(model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(parameter, plain)
