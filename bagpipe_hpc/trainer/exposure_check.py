"""Rows from the memory of one device to that of the next trainer's: whether they arrive as they are.

The trial before training does this with one trainer (`device/exposure_trial.py`). At the start of a job whose devices
expose their memory, all trainers do it together. So a fault is an error before training, and not a wrong model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.buffers import RowBuffer
from bagpipe_hpc.trainer.device.base import Device, Mirror
from bagpipe_hpc.trainer.step import Peers

SIZES = (4, 40_000)  # rows: MPI sends short messages and long ones in different ways
COLUMNS = 32


def require_exposure(device: Device, peers: Peers, rank: int, num_trainers: int) -> None:
    """Check that rows get from device to device.

    Args:
        device: The device of this trainer.
        peers: Exchanges rows with the other trainers.
        rank: The rank of this trainer among the trainers.
        num_trainers: T.
    Raises:
        PlatformError: they do not. The message has what mends it.
    Communication: with the trainers before and behind this one.
    """
    if device.shares_memory or not device.exposes_memory or num_trainers == 1:
        return
    try:
        fault = fault_of_swap(device, peers, rank, num_trainers)
    except Exception as error:  # of MPI
        fault = " ".join(f"{type(error).__name__}: {error}".split())
    if fault:
        raise PlatformError(
            f"rows from GPU to GPU by MPI: {fault}; set training.exchange to host, or use an MPI that is built for the "
            "memory of GPUs"
        )


def fault_of_swap(device: Device, peers: Peers, rank: int, num_trainers: int) -> str:
    """Send rows to the next trainer, and receive those of the one before. One trainer sends them to itself.

    Returns:
        What is wrong with the rows that arrive; empty if nothing is.
    Communication: with the trainers before and behind this one.
    """
    faults = [_fault_of_rows(device, peers, num_rows, rank, num_trainers) for num_rows in SIZES]
    return next(filter(None, faults), "")


def _fault_of_rows(device: Device, peers: Peers, num_rows: int, rank: int, num_trainers: int) -> str:
    source = (rank - 1) % num_trainers
    sent, landing = (RowBuffer(device, for_peers=True).rows(num_rows, COLUMNS) for _ in range(2))
    _fill(device, sent, _values(num_rows, rank))
    _fill(device, landing, -_values(num_rows, source))
    peers.begin([((rank + 1) % num_trainers, sent.exposed)], [(source, landing.exposed)]).finish()
    landing.up()
    expected = _values(num_rows, source)
    if np.array_equal(device.get(device.as_tensor(landing.device)), expected):
        return ""
    return f"{expected.nbytes} bytes from trainer {source} arrive as other values on {device.name}"


def _values(num_rows: int, rank: int) -> NDArray[np.float32]:
    """Return the rows that a trainer sends, float32, shape (num_rows, COLUMNS); none of them is 0."""
    first = 1 + rank * num_rows * COLUMNS
    return np.arange(first, first + num_rows * COLUMNS, dtype=np.float32).reshape(num_rows, COLUMNS)


def _fill(device: Device, rows: Mirror, values: NDArray[np.float32]) -> None:
    device.as_tensor(rows.device).copy_(device.as_tensor(device.put(values)))
    rows.down().wait()
