"""The parts of `bagpipe bench gpu` that run on the device."""

from __future__ import annotations

import torch

from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES
from bagpipe_hpc.bench.gpu.kernel_bandwidth import measure_kernels
from bagpipe_hpc.bench.gpu.resident import ResidentModel
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.cuda import CudaDevice
from bagpipe_hpc.trainer.device.device_clock import clock_of, milliseconds_per_call
from tests.unit.bench.gpu.test_resident import CONFIG, SCHEMA, batch

CYCLES = 100_000_000


def test_the_clock_takes_the_time_of_the_device(gpu: CudaDevice) -> None:
    clock = clock_of(gpu.torch_device)
    begin = clock.note()
    gpu.launch(torch.cuda._sleep, CYCLES)
    middle = clock.note()
    gpu.launch(torch.cuda._sleep, 5 * CYCLES)
    end = clock.note()
    assert 0 < clock.milliseconds(begin, middle) < clock.milliseconds(middle, end)
    assert milliseconds_per_call(clock, lambda: torch.cuda._sleep(CYCLES), 2) > 0


def test_the_model_with_all_rows_resident_trains_as_on_the_cpu(gpu: CudaDevice) -> None:
    models = [ResidentModel(CONFIG, SCHEMA, device) for device in (CpuDevice(), gpu)]
    models[1].cache.rows.copy_(models[0].cache.rows)
    for model in models:
        model.train([model.place(batch())], 3)
    rows = [model.device.get(model.cache.rows) for model in models]
    torch.testing.assert_close(torch.from_numpy(rows[1].copy()), torch.from_numpy(rows[0].copy()), rtol=1e-4, atol=1e-5)


def test_every_kernel_is_measured(gpu: CudaDevice) -> None:
    model = ResidentModel(CONFIG, SCHEMA, gpu)
    found = measure_kernels(model, model.place(batch()), clock_of(gpu.torch_device))
    assert tuple(found) == KERNEL_NAMES
    assert all(figures.milliseconds > 0 for figures in found.values())
