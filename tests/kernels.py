"""What the kernels of every device keep, as a check (`trainer/device/base.py`, RowKernels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device.base import DeviceArray, RowKernels, UpdateLists

Float32Array = NDArray[np.float32]


def random_lists(num_trainers: int, rank: int, dim: int, seed: int) -> tuple[UpdateLists, Float32Array, Float32Array]:
    """Lists of rows to update, own gradients and gradients that arrive. A trainer sends at most one for each row."""
    random = np.random.default_rng([num_trainers, rank, seed])
    num_updates, num_rows, num_own = 20, int(random.integers(1, 15)), 8
    positions = np.sort(random.permutation(num_updates)[:num_rows]).astype(np.int64)
    counts = random.integers(0, num_rows + 1, num_trainers)
    counts[rank] = 0
    index = np.concatenate([random.permutation(num_rows)[:count] for count in counts]).astype(np.int64)
    lists = UpdateLists(
        slots=random.permutation(40)[:num_rows].astype(np.int32),
        positions=positions,
        num_own=int(np.searchsorted(positions, num_own)),
        index=index,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rank=rank,
    )
    own = random.normal(size=(num_own, dim)).astype(np.float32)
    return lists, own, random.normal(size=(len(index), dim)).astype(np.float32)


def check_kernels(
    kernels: RowKernels, up: Callable[[Any], DeviceArray], down: Callable[[DeviceArray], NDArray[Any]]
) -> None:
    """Copy and overwrite rows.

    Args:
        kernels: The kernels.
        up: Brings an array to the device.
        down: Brings it back.
    """
    rows = np.arange(30, dtype=np.float32).reshape(6, 5)
    slots, places = np.array([5, 0, 3], np.int32), np.array([2, 3, 0], np.int64)

    out = up(np.full((3, 4), -1, np.float32))
    kernels.copy_rows(up(rows.copy()), up(slots), out)
    np.testing.assert_array_equal(down(out), rows[slots, :4])

    out = up(np.full((4, 5), -1, np.float32))
    kernels.copy_rows_to(up(rows.copy()), up(slots), out, up(places))
    np.testing.assert_array_equal(down(out), [rows[3], [-1] * 5, rows[5], rows[0]])

    changed = up(rows.copy())
    kernels.write_rows(changed, up(slots), up(-rows[:3]))
    expected = rows.copy()
    expected[slots] = -rows[:3]
    np.testing.assert_array_equal(down(changed), expected)
