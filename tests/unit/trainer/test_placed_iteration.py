"""Iterations on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bagpipe_hpc.config import Config, ScheduleConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.base import Device, HostArray, RowJob, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.feature_layout import layout_of
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels
from bagpipe_hpc.trainer.iteration_lists import GradientList, lists_of
from bagpipe_hpc.trainer.placed_iteration import IterationPlacer
from bagpipe_hpc.trainer.row_optimizer import RowSGD
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockSamples, BlockShare
from tests.queued_device import QueuedDevice
from tests.unit.trainer.test_iteration_lists import plan as plan_of_rows
from tests.unit.trainer.test_sample_blocks import plan as plan_of_samples

ROW_WIDTH = 3
# The features of plan_of_samples, in table order: test_sample_blocks.KINDS.
SCHEMA = Schema(
    tables=(
        TableSchema(name="a", num_embeddings=9),
        TableSchema(name="b", num_embeddings=9, ragged=True),
        TableSchema(name="c", num_embeddings=9, ragged=True, weighted=True),
        TableSchema(name="d", num_embeddings=9),
    )
)


class KernelsWithArrays(TorchKernels):
    """Kernels that want index arrays of their own."""

    def arrays_of_samples(self, job: RowJob, samples: BlockSamples, num_rows: int) -> Sequence[HostArray]:
        return [np.array([len(samples.labels), num_rows])]

    def arrays_of_updates(self, job: RowJob, updates: GradientList, num_trained: int) -> Sequence[HostArray]:
        return [updates.positions + 1000 * num_trained, updates.slots + 1]


def placer_of(device: Device, share: BlockShare = ONE_BLOCK) -> IterationPlacer:
    job = RowJob(layout_of(SCHEMA, Config()), RowSGD(LearningRate(0.1, ScheduleConfig())), 0, share.is_tree)
    return IterationPlacer(device, job, row_width=ROW_WIDTH, is_overlapped=True, share=share)


@pytest.mark.parametrize("device", [CpuDevice(), QueuedDevice("late")], ids=["cpu", "queued"])
def test_everything_arrives(device: CpuDevice | QueuedDevice) -> None:
    samples, rows = plan_of_samples(), plan_of_rows(3)
    names = ["num_own", "update_slots", "push_index", "push_counts", "replica_counts"]
    names += ["write_back_slots", "write_back_counts", "forced_counts"]
    plan = replace(samples, **{name: getattr(rows, name) for name in names}, fetch_slots=np.array([7, 3], np.int32))
    lists, placer = lists_of(plan, is_overlapped=True), placer_of(device)
    with device.on(Stream.UPLOAD):
        packed = placer.pack(plan)
        packed.rows[:] = [[1, 2, 3], [4, 5, 6]]
        placed = placer.place(packed)
    with device.on(Stream.COMPUTE):
        device.wait(placed.placed)

        def host(array: object) -> list[object]:
            values: list[object] = device.get(device.as_tensor(array)).tolist()
            return values

        assert host(placed.fetched) == [[1, 2, 3], [4, 5, 6]]
        assert host(placed.fetch_slots) == [7, 3]
        assert host(placed.own_slots) == plan.update_slots[: plan.num_own].tolist()
        for name in ("forced_slots", "forced_places", "other_slots", "other_places"):
            assert host(getattr(placed.leaving, name)) == getattr(lists.leaving, name).tolist()
        for name in ("early_pushes", "critical_pushes"):
            assert host(getattr(placed, name).slots) == getattr(lists, name).slots.tolist()
        for name in ("critical", "delayed"):
            mine, theirs = getattr(placed, name).lists, getattr(lists, name)
            for part in ("slots", "positions", "index"):
                assert host(getattr(mine, part)) == getattr(theirs, part).tolist()
            assert (mine.num_own, mine.starts.tolist()) == (theirs.num_own, theirs.starts.tolist())
        (block,) = placed.samples
        for name in ("labels", "dense", "sample_rows", "weights"):
            assert device.get(getattr(block, name)).tolist() == getattr(plan, name).tolist()
        assert block.num_ids == plan.bag_lengths.reshape(2, -1).sum(axis=1).tolist()


def plan_of_one_trainer() -> TrainerPlan:
    nobody = np.zeros((1, 4), np.int32)
    return replace(plan_of_samples(), push_counts=nobody, replica_counts=nobody)


def test_a_block_serves_again_when_its_iteration_is_over() -> None:
    device = QueuedDevice("early")
    placer = placer_of(device)
    first = placer.place(placer.pack(plan_of_one_trainer()))
    second = placer.place(placer.pack(plan_of_one_trainer()))
    assert first.block is not second.block
    placer.release(first, device.mark())
    assert placer.pack(plan_of_one_trainer()).block is first.block


def test_arrays_of_kernels_travel_along() -> None:
    device = QueuedDevice("early")
    device.kernels = KernelsWithArrays()
    share = BlockShare(0, 2, 2)
    plan = replace(plan_of_one_trainer(), update_slots=np.array([4, 2], np.int32), num_own=2)
    placed = placer_of(device, share).place(placer_of(device, share).pack(plan))
    assert [array.tolist() for array in placed.critical.lists.own_arrays] == [[1000, 1001], [5, 3]]
    assert [array.tolist() for array in placed.delayed.lists.own_arrays] == [[], []]
    assert [[array.tolist() for array in block.own_arrays] for block in placed.samples] == [[[4, 2]], [[3, 2]]]
