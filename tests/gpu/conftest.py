"""Tests that need a GPU. Without one they are skipped: nothing else needs it."""

from __future__ import annotations

import pytest

from bagpipe_hpc.trainer.device.cuda import CudaDevice
from bagpipe_hpc.trainer.device.gpus import num_gpus


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpu() -> CudaDevice:
    """The first GPU, as a trainer chooses it."""
    if num_gpus() == 0:
        pytest.skip("torch finds no GPU")
    return CudaDevice.of_rank(0)
