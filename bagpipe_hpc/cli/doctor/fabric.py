"""Checks of what connects the ranks: the MPI library, the launcher, one-sided transfers."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.cli.doctor.finding import SETUP, Check, Outcome, Status, World, gather_texts
from bagpipe_hpc.launcher import fault_of_launcher

if TYPE_CHECKING:
    from mpi4py import MPI

STAGE_BYTES = 8 * 2**20
NUM_LATENCY_GETS = 30
NUM_STAGE_GETS = 3
SLOW_GET_MICROSECONDS = 1000.0
MOST_PEERS_LISTED = 8
Transfer = tuple[float, float]  # microseconds of an 8-byte Get, GB/s of an 8 MiB Get


def mpi(world: World) -> Outcome:
    """Check library, standard and thread level: a role's thread and Horovod's thread call MPI at the same time."""
    comm = world.ranks
    from mpi4py import MPI

    library = " ".join(MPI.Get_library_version().rstrip("\0").splitlines()[0].split(", package")[0].split())
    standard = ".".join(map(str, MPI.Get_version()))
    multiple = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    threads = "thread level MULTIPLE" if multiple else f"thread level only {MPI.Query_thread()}"
    found = f"{library}; MPI {standard}; {threads}; {comm.size} rank(s)"
    if multiple:
        return Status.OK, found, ""
    return Status.FAIL, found, "use an MPI built with MPI_THREAD_MULTIPLE, and unset MPI4PY_RC_THREAD_LEVEL"


def launcher(world: World) -> Outcome:
    """Check that the launcher belongs to this MPI. Otherwise it starts N jobs of one rank, and all exit with 0."""
    size = world.ranks.size
    from mpi4py import MPI

    return judge_launcher(os.environ, size, MPI.Get_library_version())


def judge_launcher(environment: Mapping[str, str], world_size: int, library: str) -> Outcome:
    """Compare the number of tasks that launchers announce with the number of ranks that MPI sees."""
    fault = fault_of_launcher(environment, world_size, library, "bagpipe doctor")
    return (Status.FAIL, *fault) if fault else (Status.OK, f"{world_size} rank(s), as launched", "")


def rma(world: World) -> Outcome:
    """Let rank 0 Get from every other rank's window (alone: from its own), check the bytes and take the time."""
    comm = world.ranks
    from mpi4py import MPI

    hosts = gather_texts(comm, platform.node())
    window = MPI.Win.Allocate(STAGE_BYTES, comm=comm)
    window.Lock(comm.rank)
    np.asarray(window.tomemory())[:] = pattern_of(comm.rank)
    window.Unlock(comm.rank)
    comm.Barrier()  # every rank has filled its window
    transfers: dict[int, Transfer] = {}
    problem: Exception | None = None
    try:
        transfers = {peer: _measure(window, peer) for peer in _peers(comm)}
    except Exception as error:
        problem = error
    comm.Barrier()  # targets wait inside MPI: over TCP, a Get completes only while its target is inside MPI
    window.Free()
    if problem is not None:
        raise problem
    return judge_transfers(transfers, hosts) if comm.rank == 0 else (Status.OK, "answered", "")


def pattern_of(rank: int) -> int:
    """Return the byte that a rank fills its window with."""
    return rank % 251 + 1


def _peers(comm: MPI.Intracomm) -> range:
    """Return the ranks that this rank reads from: rank 0 from all others (alone: from itself), the others from none."""
    if comm.rank > 0:
        return range(0)
    return range(1, comm.size) if comm.size > 1 else range(1)


def _measure(window: MPI.Win, peer: int) -> Transfer:
    from mpi4py import MPI

    stage = np.zeros(STAGE_BYTES, dtype=np.uint8)
    window.Lock(peer, MPI.LOCK_SHARED)
    latency = np.median([seconds_of(window, peer, window.Get, stage[:8]) for _ in range(NUM_LATENCY_GETS)])
    seconds = min(seconds_of(window, peer, window.Get, stage) for _ in range(NUM_STAGE_GETS))
    window.Unlock(peer)
    if not (stage == pattern_of(peer)).all():
        raise RuntimeError(f"a Get from rank {peer} brought wrong bytes")
    return float(latency) * 1e6, STAGE_BYTES / seconds / 1e9


def seconds_of(
    window: MPI.Win, peer: int, transfer: Callable[..., None], stage: NDArray[np.uint8], first_byte: int = 0
) -> float:
    """Return the seconds of one Get or Put, until it is complete at the peer, too."""
    began = time.perf_counter()
    transfer(stage, peer, first_byte)
    window.Flush(peer)
    return time.perf_counter() - began


def judge_transfers(transfers: Mapping[int, Transfer], hosts: list[str]) -> Outcome:
    """Report each peer on a line or, if there are many, the median and the slowest."""

    def line(label: str, microseconds: float, rate: float) -> str:
        return f"{label}: {microseconds:.1f} µs, 8 MiB at {rate:.2f} GB/s"

    found = [line(f"Get from rank {peer} ({hosts[peer]})", *transfers[peer]) for peer in transfers]
    slowest = max(transfers, key=lambda peer: transfers[peer][0])
    if len(found) > MOST_PEERS_LISTED:
        latency, rate = np.median(list(transfers.values()), axis=0)
        found = [line(f"Get from {len(transfers)} ranks, median", latency, rate), f"slowest: {found[slowest - 1]}"]
    if transfers[slowest][0] <= SLOW_GET_MICROSECONDS:
        return Status.OK, "\n".join(found), ""
    cure = "slow: give every rank a core of its own, and let MPI use the fast network instead of TCP"
    return Status.WARN, "\n".join(found), cure


MPI_LIBRARY = Check(
    "MPI", mpi, f"{SETUP}; with a site MPI, set MPICC to its compiler wrapper and load the same module in the job"
)
LAUNCHER = Check("Launcher", launcher, "start the job with the launcher of the MPI that this environment uses")
RMA = Check(
    "RMA",
    rma,
    "with Open MPI 4 over TCP set OMPI_MCA_osc=^pt2pt; with Open MPI 5 without UCX devices set OMPI_MCA_osc=^ucx; else "
    "try another transport (OMPI_MCA_btl, UCX_TLS, FI_PROVIDER)",
)
