"""`python -m bagpipe_hpc.trainer.device.exposure_trial`: let MPI read and write the memory of a GPU; print the result.

An MPI that does not know the memory of GPUs crashes, or waits for ever. So `child_trial.py` starts this in a process of
its own, without a launcher: MPI then has one rank, which sends rows to itself as trainers send them to each other. With
the argument `cpu` the memory is that of the host.
"""

from __future__ import annotations

import resource
import signal
import sys

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.trainer.buffers import RowBuffer
from bagpipe_hpc.trainer.device.base import Device, Mirror, Stream
from bagpipe_hpc.trainer.device.child_trial import SECONDS, VERDICT
from bagpipe_hpc.transport.mpi import launched_ranks
from bagpipe_hpc.transport.peers import PeerExchange

SIZES = (4, 40_000)  # rows: MPI sends short messages and long ones in different ways
COLUMNS = 32


def main(arguments: list[str]) -> None:
    """Print the verdict."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is no reason to fill the disk
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)  # ends this process even if it hangs and its parent is gone
    try:
        fault = _try_cpu() if arguments == ["cpu"] else _try_gpu()
    except Exception as error:
        fault = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{VERDICT}{fault}", flush=True)


def _try_cpu() -> str:
    from bagpipe_hpc.trainer.device.cpu import CpuDevice

    return fault_of(CpuDevice())


def _try_gpu() -> str:
    from bagpipe_hpc.trainer.device.choose import fault_of_gpu

    if fault := fault_of_gpu():
        return fault
    from bagpipe_hpc.trainer.device.cuda import CudaDevice
    from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels

    return fault_of(CudaDevice(0, TorchKernels(), exposes_memory=True))


def fault_of(device: Device) -> str:
    """Send rows from the memory of a device to itself. Returns what is wrong with them; empty if nothing is."""
    exchange = PeerExchange(launched_ranks())
    try:
        with device.on(Stream.COMPUTE):
            faults = [_fault_of_rows(device, exchange, num_rows) for num_rows in SIZES]
    finally:
        exchange.free()
    return next(filter(None, faults), "")


def _fault_of_rows(device: Device, exchange: PeerExchange, num_rows: int) -> str:
    values = np.arange(num_rows * COLUMNS, dtype=np.float32).reshape(num_rows, COLUMNS)
    sent, landing = (RowBuffer(device, for_peers=True).rows(num_rows, COLUMNS) for _ in range(2))
    _fill(device, sent, values)
    _fill(device, landing, -values)
    exchange.begin([(0, sent.exposed)], [(0, landing.exposed)]).finish()
    landing.up()
    if not np.array_equal(device.get(device.as_tensor(landing.device)), values):
        return f"wrong values arrive ({values.nbytes} bytes from one place in the memory of {device.name} to another)"
    return ""


def _fill(device: Device, rows: Mirror, values: NDArray[np.float32]) -> None:
    device.as_tensor(rows.device).copy_(device.as_tensor(device.put(values)))
    rows.down().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
