"""`python -m bagpipe_hpc.trainer.device.exposure_trial`: let MPI read and write the memory of a GPU; print the result.

An MPI that does not know the memory of GPUs crashes, or waits for ever. So `child_trial.py` starts this in a process of
its own, without a launcher: MPI then has one rank, which sends rows to itself as trainers send them to each other. With
the argument `cpu` the memory is that of the host.
"""

from __future__ import annotations

import resource
import signal
import sys

from bagpipe_hpc.trainer.device.base import Device, Stream
from bagpipe_hpc.trainer.device.child_trial import SECONDS, VERDICT
from bagpipe_hpc.trainer.exposure_check import fault_of_swap
from bagpipe_hpc.transport.mpi import launched_ranks
from bagpipe_hpc.transport.peers import PeerExchange


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
            return fault_of_swap(device, exchange, 0, 1)
    finally:
        exchange.free()


if __name__ == "__main__":
    main(sys.argv[1:])
