"""The emulated fused multiply-add, through the kernel that updates rows; test_kernels.py tests the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.row_step import row_step_of

STEP = row_step_of(
    Config.model_validate({"model": {"name": "dcn", "embedding_dim": 1}}),
    Schema(tables=(TableSchema(name="a", num_embeddings=9),)),
)
number = st.floats(width=32)


def fused(kernels: Any, x: float, y: float, z: float) -> torch.Tensor:
    """x * y + z, as SGD computes gradient * factor + weight."""
    cache = torch.tensor([[z]])
    ends = torch.tensor([0, 1], dtype=torch.int32)
    terms = kernels.Terms(ends, ends[:1], torch.empty(0, 1), torch.tensor([[x]]))
    kernels.update_rows(STEP, cache, ends[:1], terms, torch.tensor([[y, 0.0, 0.0, 0.0, 0.0]]), ends[:1])
    return cache[0, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounding_twice_would_differ(kernels: Any, sign: float) -> None:
    """The exact result is 2**-70 below the middle of two float32. float64 would round it to the middle."""
    x, y, z = sign * 2**-12 * (1 + 2**-23), 2**-12 * (1 - 2**-23), sign * (1 + 2**-23)
    assert fused(kernels, x, y, z).item() == z
    assert torch.tensor(x * y + z).item() != z


@settings(max_examples=50)
@given(number, number, number)
def test_any_numbers(kernels: Any, x: float, y: float, z: float) -> None:
    """As the processor's own instruction, through torch. A gradient of -0.0 is added to 0.0 first."""
    expected = torch.tensor([z]).add_(torch.tensor([x + 0.0]), alpha=y)[0]
    actual = fused(kernels, x, y, z)
    assert torch.equal(actual.view(torch.int32), expected.view(torch.int32)) or (actual.isnan() and expected.isnan())
