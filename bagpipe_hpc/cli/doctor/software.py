"""Checks of packages: those that every role needs, Horovod, HDF5, GPUs."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bagpipe_hpc.cli.doctor.finding import SETUP, Check, Outcome, Status, World
from bagpipe_hpc.trainer.device.visible import VISIBLE_GPUS, offers_gpu

if TYPE_CHECKING:
    from bagpipe_hpc.compiled import CodeCache


def packages(world: World) -> Outcome:
    """Check that the packages of every role can be imported."""
    import h5py
    import numba
    import torch

    modules = {"torch": torch, "numpy": np, "numba": numba, "h5py": h5py}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    return Status.OK, f"Python {platform.python_version()}, {versions}", ""


def compiled_code(world: World) -> Outcome:
    """Check that compiled machine code is kept from one start to the next."""
    from bagpipe_hpc.compiled import CODE_CACHE

    return judge_code_cache(CODE_CACHE, os.environ.get("NUMBA_CACHE_DIR"))


def judge_code_cache(cache: CodeCache, named: str | None) -> Outcome:
    """Warn if every start compiles again, or if NUMBA_CACHE_DIR is not writable.

    Args:
        named: The value of NUMBA_CACHE_DIR; None if it is not set.
    """
    if cache.directory is None:
        return Status.WARN, "not kept: every start compiles for up to a minute", _CODE_CACHE_CURE
    found = f"kept in {cache.directory} ({cache.origin})"
    if named and cache.origin != "NUMBA_CACHE_DIR":
        return Status.WARN, f"{found}; NUMBA_CACHE_DIR={named} is not writable", _CODE_CACHE_CURE
    return Status.OK, found, ""


def dense_backends(world: World) -> Outcome:
    """Say what can sum dense gradients on every rank, and what a job uses."""
    from bagpipe_hpc.trainer.dense_backend import ON_CPU
    from bagpipe_hpc.trainer.device.gpus import fault_of_nccl
    from bagpipe_hpc.trainer.horovod_state import fault_of_horovod

    mine = [fault_of_horovod(), fault_of_nccl(), "" if offers_gpu() else ON_CPU]
    by_rank = [mine]
    if world.comm is not None:
        from bagpipe_hpc.transport.collectives import all_gather_json

        by_rank = all_gather_json(world.comm, mine)
    return judge_backends(by_rank)


def judge_backends(faults_by_rank: Sequence[Sequence[str]]) -> Outcome:
    """Say which backends all ranks have. Warn if some ranks have Horovod and others do not.

    Args:
        faults_by_rank: For each rank, why it cannot use Horovod and NCCL, and why a job of such ranks does not use
            Horovod by itself; empty texts if it can, and does.
    """
    horovod_faults, nccl_faults, reasons = zip(*faults_by_rank, strict=True)
    found = ["mpi"]
    found += ["horovod" if not any(horovod_faults) else f"no horovod ({max(horovod_faults)})"]
    found += ["nccl" if not any(nccl_faults) else f"no nccl ({max(nccl_faults)})"]
    default = "mpi" if any(horovod_faults) or any(reasons) else "horovod"
    told = f"{', '.join(found)}; a job uses {default} unless dense.backend is set"
    if any(horovod_faults) and not all(horovod_faults):
        return Status.WARN, f"{told}; the ranks differ", "set up all nodes in the same way"
    return Status.OK, told, ""


def horovod(world: World) -> Outcome:
    """Check that Horovod, if any rank has it, is built for MPI and torch, and adds up one number per rank."""
    from bagpipe_hpc.trainer.horovod_state import NOT_INSTALLED, fault_of_horovod
    from bagpipe_hpc.transport.collectives import all_gather_json

    problem: Exception | None = None
    if all(fault == NOT_INSTALLED for fault in all_gather_json(world.ranks, fault_of_horovod())):
        return Status.OK, f"{NOT_INSTALLED}, and no other backend needs it", ""
    try:
        import horovod.torch as hvd
    except Exception as error:
        problem = error
    _agree(world, problem)
    hvd.init(comm=world.ranks)
    try:
        return _judge_horovod(world)
    finally:
        hvd.shutdown()


def _agree(world: World, problem: Exception | None) -> None:
    """Raise on all ranks if Horovod fails on any: the others would wait for that rank inside Horovod."""
    broken = np.array([problem is not None], dtype=np.int32)
    num_broken = np.zeros(1, dtype=np.int32)
    world.ranks.Allreduce(broken, num_broken)
    if problem is not None:
        raise problem
    if num_broken[0]:
        raise RuntimeError(f"not tried, because {num_broken[0]} other rank(s) cannot import Horovod")


def _judge_horovod(world: World) -> Outcome:
    import horovod
    import horovod.torch as hvd
    import torch

    from bagpipe_hpc.trainer.device.gpus import num_gpus

    built = {"MPI": hvd.mpi_built(), "NCCL": bool(hvd.nccl_built()), "Gloo": hvd.gloo_built()}
    features = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in built.items())
    found = f"Horovod {horovod.__version__} for torch: {features}"
    if not built["MPI"]:
        return Status.FAIL, found, f"Horovod was built without MPI: {SETUP}"
    if not hvd.mpi_threads_supported():
        return Status.FAIL, f"{found}, no MPI threads", "use an MPI built with MPI_THREAD_MULTIPLE"
    total = hvd.allreduce(torch.full((4,), float(world.rank + 1)), op=hvd.Sum, name="doctor")
    size = world.ranks.size
    if hvd.size() != size or not bool((total == size * (size + 1) / 2).all()):
        return Status.FAIL, f"{found}; wrong sum {total.tolist()} over {hvd.size()} of {size} rank(s)", SETUP
    if num_gpus() and not built["NCCL"]:
        cure = "gradients go through the CPU: HOROVOD_GPU_OPERATIONS=NCCL env/setup.sh"
        return Status.WARN, found, cure
    return Status.OK, f"{found}; allreduce over {size} rank(s) is right", ""


def hdf5(world: World) -> Outcome:
    """Check that values written to a file in the directory are read back unchanged."""
    import h5py

    written = np.arange(1000)
    with tempfile.TemporaryDirectory(prefix="bagpipe-doctor-", dir=world.directory) as scratch:
        path = Path(scratch) / "round_trip.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("rows", data=written, compression="gzip", fletcher32=True)
        with h5py.File(path, "r") as file:
            read = file["rows"][:]
    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "not set")
    found = f"HDF5 {h5py.version.hdf5_version}; round trip in {world.directory}; HDF5_USE_FILE_LOCKING {locking}"
    if not np.array_equal(read, written):
        return Status.FAIL, f"{found}: wrong values came back", "do not use this file system; name another --directory"
    return Status.OK, found, ""


def gpus(world: World) -> Outcome:
    """Check that every visible GPU works. It is no fault if there is none."""
    import torch

    from bagpipe_hpc.trainer.device.gpus import num_gpus, try_gpus

    count = num_gpus()
    if count == 0 and Path("/dev/nvidia0").exists():
        cure = "install a build of torch for this GPU, or a newer driver; ask the scheduler for GPUs"
        return Status.WARN, f"CPU only, but the node has a GPU that torch {torch.__version__} cannot use", cure
    if count == 0:
        return Status.OK, "CPU only", ""
    return Status.OK, try_gpus(), ""


_CODE_CACHE_CURE = "set NUMBA_CACHE_DIR to a directory that this user can write to, best a local one on every node"
PACKAGES = Check("Packages", packages, SETUP)
COMPILED_CODE = Check("Compiled code", compiled_code, _CODE_CACHE_CURE)
DENSE_BACKENDS = Check("Dense backends", dense_backends, SETUP)
HOROVOD = Check("Horovod", horovod, SETUP)
HDF5 = Check(
    "HDF5",
    hdf5,
    "give --directory a directory that you may write to; on NFS or Lustre set HDF5_USE_FILE_LOCKING=FALSE",
)
GPUS = Check("GPUs", gpus, f"compare nvidia-smi with {VISIBLE_GPUS} and with what the job asked the scheduler for")
