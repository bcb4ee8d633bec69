"""Checks of what connects the ranks: the MPI library, its launcher, one-sided transfers."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.cli.doctor.finding import SETUP, Check, Outcome, Status, World, gather_texts
from bagpipe_hpc.launcher import misfit_of_launcher

if TYPE_CHECKING:
    from mpi4py import MPI

STAGE_BYTES = 8 * 2**20
NUM_LATENCY_GETS = 30
NUM_STAGE_GETS = 3
SLOW_GET_MICROSECONDS = 1000.0
MOST_PEERS_LISTED = 8
Transfer = tuple[float, float]  # microseconds of an 8-byte Get, GB/s of an 8 MiB Get


def mpi(world: World) -> Outcome:
    """Library, standard and thread level: a role's own thread and Horovod's call MPI at the same time."""
    comm = world.ranks
    from mpi4py import MPI

    library = MPI.Get_library_version().rstrip("\0").splitlines()[0].split(", package")[0]
    standard = ".".join(map(str, MPI.Get_version()))
    multiple = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    threads = "thread level MULTIPLE" if multiple else f"thread level only {MPI.Query_thread()}"
    found = f"{library}; MPI {standard}; {threads}; {comm.size} rank(s)"
    if multiple:
        return Status.OK, found, ""
    return Status.FAIL, found, "use an MPI built with MPI_THREAD_MULTIPLE, and unset MPI4PY_RC_THREAD_LEVEL"


def launcher(world: World) -> Outcome:
    """A launcher of another MPI starts N jobs of one rank each, and they all exit with 0."""
    size = world.ranks.size
    from mpi4py import MPI

    return judge_launcher(os.environ, size, MPI.Get_library_version())


def judge_launcher(environment: Mapping[str, str], world_size: int, library: str) -> Outcome:
    """Compare the number of tasks that launchers announce with the number of ranks that MPI sees."""
    misfit = misfit_of_launcher(environment, world_size, library, "bagpipe doctor")
    return (Status.FAIL, *misfit) if misfit else (Status.OK, f"{world_size} rank(s), as launched", "")


def rma(world: World) -> Outcome:
    """Rank 0 Gets from every other rank's window (alone: from its own), checks what arrives and takes the time."""
    comm = world.ranks
    hosts = gather_texts(comm, platform.node())
    with filled_windows(comm) as window:
        transfers = {peer: measure(window, peer) for peer in _peers(comm)}
    return judge_transfers(transfers, hosts) if comm.rank == 0 else (Status.OK, "answered", "")


@contextmanager
def filled_windows(comm: MPI.Intracomm) -> Iterator[MPI.Win]:
    """A window on every rank that `measure` can read from. Communication: collective over comm."""
    from mpi4py import MPI

    window = MPI.Win.Allocate(STAGE_BYTES, comm=comm)
    window.Lock(comm.rank)
    np.asarray(window.tomemory())[:] = _pattern(comm.rank)
    window.Unlock(comm.rank)
    comm.Barrier()  # every window is filled
    try:
        yield window
    finally:
        comm.Barrier()  # targets wait inside MPI: over TCP a Get needs them to make progress
        window.Free()


def _pattern(rank: int) -> int:
    return rank % 251 + 1


def _peers(comm: MPI.Intracomm) -> range:
    """Whom this rank reads from: rank 0 from all others, alone from itself, the others from nobody."""
    if comm.rank > 0:
        return range(0)
    return range(1, comm.size) if comm.size > 1 else range(1)


def measure(window: MPI.Win, peer: int) -> Transfer:
    """Get from a rank of `filled_windows`, check what arrives and take the time.

    Raises:
        RuntimeError: wrong bytes arrive.
    Communication: one-sided.
    """
    from mpi4py import MPI

    stage = np.zeros(STAGE_BYTES, dtype=np.uint8)
    window.Lock(peer, MPI.LOCK_SHARED)
    latency = np.median([_seconds_of_get(window, stage[:8], peer) for _ in range(NUM_LATENCY_GETS)])
    seconds = min(_seconds_of_get(window, stage, peer) for _ in range(NUM_STAGE_GETS))
    window.Unlock(peer)
    if not (stage == _pattern(peer)).all():
        raise RuntimeError(f"a Get from rank {peer} brought wrong bytes")
    return float(latency) * 1e6, STAGE_BYTES / seconds / 1e9


def _seconds_of_get(window: MPI.Win, target: NDArray[np.uint8], peer: int) -> float:
    began = time.perf_counter()
    window.Get(target, peer)
    window.Flush(peer)
    return time.perf_counter() - began


def judge_transfers(transfers: Mapping[int, Transfer], hosts: list[str]) -> Outcome:
    """Every peer on a line, or, of many, the median and the slowest."""

    def line(label: str, microseconds: float, rate: float) -> str:
        return f"{label}: {microseconds:.1f} µs, 8 MiB at {rate:.2f} GB/s"

    found = [line(f"Get from rank {peer} ({hosts[peer]})", *transfers[peer]) for peer in transfers]
    slowest = max(transfers, key=lambda peer: transfers[peer][0])
    if len(found) > MOST_PEERS_LISTED:
        latency, rate = np.median(list(transfers.values()), axis=0)
        found = [line(f"Get from {len(transfers)} ranks, median", latency, rate), f"slowest: {found[slowest - 1]}"]
    if transfers[slowest][0] <= SLOW_GET_MICROSECONDS:
        return Status.OK, "\n".join(found), ""
    cure = "slow: give every rank a core of its own, and let MPI use the fast network rather than TCP"
    return Status.WARN, "\n".join(found), cure


MPI_LIBRARY = Check(
    "MPI", mpi, f"{SETUP}; with a site MPI set MPICC to its compiler wrapper, and load the same module in the job"
)
LAUNCHER = Check("Launcher", launcher, "start the job with the launcher of the MPI this environment was built with")
RMA = Check(
    "RMA",
    rma,
    "with Open MPI 4 over TCP set OMPI_MCA_osc=^pt2pt, with Open MPI 5 without UCX devices OMPI_MCA_osc=^ucx; else try "
    "another transport (OMPI_MCA_btl, UCX_TLS, FI_PROVIDER)",
)
