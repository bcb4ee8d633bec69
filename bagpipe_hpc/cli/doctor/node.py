"""Checks of the node: cores, shared memory, memory, open files."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import psutil

from bagpipe_hpc.cli.doctor.finding import Check, Outcome, Status, World
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.runtime.process_limits import FILES_OF_A_RANK, open_files_limit, require_open_files

if TYPE_CHECKING:
    from bagpipe_hpc.transport.byte_messages import Comm

GIB = 2**30
SHARED_MEMORY = "/dev/shm"
ENOUGH_BYTES_PER_RANK = GIB


def cores(world: World) -> Outcome:
    """Compare the cores that this rank may use with the ranks that share them."""
    mine = os.sched_getaffinity(0)
    num_ranks, num_cores = _node(world, mine)
    return judge_cores(len(mine), num_ranks, num_cores, os.cpu_count() or num_cores)


def _node(world: World, mine: set[int]) -> tuple[int, int]:
    """Return the number of ranks on this node, and of cores that any of them may use."""
    used = np.zeros(max(os.cpu_count() or 0, *mine) + 1, dtype=np.int32)
    used[list(mine)] = 1
    node_comm = _node_comm(world)
    if node_comm is None:
        return 1, len(mine)
    anyone = np.zeros_like(used)
    node_comm.Allreduce(used, anyone)
    num_ranks = node_comm.size
    node_comm.Free()
    return num_ranks, int(np.count_nonzero(anyone))


def _node_comm(world: World) -> Comm | None:
    if world.comm is None:
        return None
    from bagpipe_hpc.transport.communicators import ranks_of_host

    return ranks_of_host(world.comm)


def judge_cores(num_mine: int, num_ranks: int, num_cores: int, num_node_cores: int) -> Outcome:
    """Warn of more ranks than cores, and of ranks bound to one core each while other cores of the node stay idle.

    Args:
            num_mine: Number of cores that this rank may use.
            num_ranks: Number of ranks on this node.
            num_cores: Number of cores that any of them may use.
            num_node_cores: Number of cores of the node.
    """
    found = f"{num_mine} for this rank; {num_cores} of the node's {num_node_cores} for its {num_ranks} rank(s)"
    if num_ranks > num_cores:
        return Status.WARN, found, f"oversubscribed: start at most {num_cores} rank(s) here, or ask for more cores"
    spare = num_node_cores // num_ranks
    if num_mine == 1 and num_ranks > 1 and spare > 1:
        cure = (
            f"bound to one core each, {spare} would fit: --map-by slot:PE={spare} (Open MPI), --cpus-per-task (Slurm)"
        )
        return Status.WARN, found, cure
    return Status.OK, found, ""


def shared_memory(world: World) -> Outcome:
    """Check /dev/shm, through which the ranks of one node share their RMA windows."""
    return judge_bytes("free", shutil.disk_usage(SHARED_MEMORY).free, _num_ranks(world), _SHARED_MEMORY_CURE)


def memory(world: World) -> Outcome:
    """Check the free memory, which tables, stages and caches need."""
    return judge_bytes("available", psutil.virtual_memory().available, _num_ranks(world), _MEMORY_CURE)


def open_files(world: World) -> Outcome:
    """Check how many files this rank may have open at the same time."""
    return judge_open_files(open_files_limit(), 1 if world.comm is None else world.comm.size)


def judge_open_files(limit: int, num_ranks: int) -> Outcome:
    """Fail if a job would refuse to start; warn if there is no room for libraries and many peers."""
    found = f"{limit:,} files may be open at the same time (ulimit -n)"
    try:
        require_open_files(limit, num_ranks)
    except PlatformError:
        return Status.FAIL, found, _OPEN_FILES_CURE
    status = Status.OK if limit >= 4 * (FILES_OF_A_RANK + num_ranks) else Status.WARN
    return status, found, "" if status is Status.OK else _OPEN_FILES_CURE


def _num_ranks(world: World) -> int:
    return _node(world, os.sched_getaffinity(0))[0]


def judge_bytes(word: str, num_bytes: int, num_ranks: int, cure: str) -> Outcome:
    """Warn below 1 GiB per rank of this node."""
    found = f"{num_bytes / GIB:.1f} GiB {word} for {num_ranks} rank(s) on this node"
    if num_bytes < ENOUGH_BYTES_PER_RANK * num_ranks:
        return Status.WARN, f"{found}, less than 1 GiB each", cure
    return Status.OK, found, ""


_SHARED_MEMORY_CURE = "remove old files there; in a container --shm-size=8g; as root mount -o remount,size=8g /dev/shm"
_OPEN_FILES_CURE = "run ulimit -n 4096 before the job starts, or ask the administrators for a higher limit"
_MEMORY_CURE = "ask for more memory or more nodes, or start fewer ranks per node"
CORES = Check("Cores", cores, "check the binding options of the launcher")
SHM = Check("/dev/shm", shared_memory, _SHARED_MEMORY_CURE)
MEMORY = Check("Memory", memory, _MEMORY_CURE)
OPEN_FILES = Check("Open files", open_files, _OPEN_FILES_CURE)
