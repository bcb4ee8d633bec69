"""Bytes of the kernels on rows, as docs/gpu.md has them, and their measurement on the CPU."""

from __future__ import annotations

import pytest

from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES
from bagpipe_hpc.bench.gpu.kernel_bandwidth import RowCounts, measure_kernels
from bagpipe_hpc.bench.gpu.resident import ResidentModel
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.device_clock import clock_of
from tests.unit.bench.gpu.test_resident import CONFIG, SCHEMA, batch


def test_bytes_of_a_batch_of_16384() -> None:
    ids = 16_384 * 26
    counts = RowCounts(rows=0, ids=ids, vectors=ids, row_dim=48, row_width=48)
    assert round(counts.bytes_of("pool_rows") / 1e6) == 167
    assert round(counts.bytes_of("add_row_gradients") / 1e6) == 83
    row = RowCounts(rows=1, ids=0, vectors=0, row_dim=48, row_width=96)
    assert [row.bytes_of(name) for name in ("gather_rows", "update_rows")] == [388, 772 + 196]


def test_every_kernel_is_measured() -> None:
    model = ResidentModel(CONFIG, SCHEMA, CpuDevice())
    found = measure_kernels(model, model.place(batch()), clock_of(model.device.torch_device))
    assert tuple(found) == KERNEL_NAMES
    for name, figures in found.items():
        assert figures.num_bytes > 0, name
        assert figures.gigabytes_per_second * figures.milliseconds * 1e6 == pytest.approx(figures.num_bytes)
        assert figures.share_of_copy > 0
