from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.interpreted_kernels import load_interpreted_kernels


@pytest.fixture(scope="session")
def kernels() -> Any:
    """bagpipe_hpc.trainer.device.kernels, in Triton's interpreter."""
    return load_interpreted_kernels()


@pytest.fixture(autouse=True)
def _numpy_as_quiet_as_a_gpu() -> Iterator[None]:
    """The interpreter computes with numpy, which would warn of infinities and of values that are not numbers."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def rounded_square_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch round square roots correctly, as GPUs and numpy do.

    On the CPU, torch calls a library of Intel. On some processors that is off by one in the last bit.
    """
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda values: torch.from_numpy(np.sqrt(values.numpy())))
