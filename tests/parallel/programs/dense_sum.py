"""On four ranks: the contract of `tests/dense_sum.py` for 2, 3 and 4 trainers with MPI, gloo and, for 2, Horovod."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from mpi4py import MPI
from torch import distributed

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.horovod_state import fault_of_horovod
from bagpipe_hpc.trainer.make_sum import make_sum
from bagpipe_hpc.trainer.process_group_sum import ProcessGroupSum
from tests.dense_sum import check_sums


def gloo_group(store: Any, rank: int, size: int) -> Any:
    return distributed.ProcessGroupGloo(store, rank, size, timedelta(seconds=30))


def main() -> None:
    world = MPI.COMM_WORLD
    for num_trainers in (4, 3, 2):
        trainers = cast(MPI.Intracomm, world.Split(0 if world.rank < num_trainers else MPI.UNDEFINED))
        if trainers == MPI.COMM_NULL:
            continue
        rank = trainers.rank
        check_sums(make_sum("mpi", trainers, CpuDevice()), rank, num_trainers, in_tree_order=True)
        check_sums(ProcessGroupSum(trainers, gloo_group, wait_until), rank, num_trainers, in_tree_order=False)
        if num_trainers == 2 and not fault_of_horovod():
            check_sums(make_sum("horovod", trainers, CpuDevice()), rank, num_trainers, in_tree_order=True)
        trainers.Free()
    world.Barrier()
    if world.rank == 0:
        print("all sums are right")


if __name__ == "__main__":
    main()
