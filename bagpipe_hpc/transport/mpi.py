"""MPI as the process has it: started, asked for its version, ended for all ranks. Importing this module starts MPI."""

from __future__ import annotations

import atexit

from mpi4py import MPI

from bagpipe_hpc.errors import PlatformError


def start_mpi() -> None:
    """Start MPI, if a local job that ran before in this process kept mpi4py from starting it."""
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        atexit.register(MPI.Finalize)


def is_mpi_running() -> bool:
    """Return whether MPI was started and has not been finalised."""
    return bool(MPI.Is_initialized() and not MPI.Is_finalized())


def launched_ranks() -> MPI.Intracomm:
    """Return all ranks that the launcher started."""
    return MPI.COMM_WORLD


def library_version() -> str:
    """Return the first line of what the MPI library calls itself."""
    return MPI.Get_library_version().splitlines()[0].rstrip("\0")


def abort_all_ranks(code: int) -> None:
    """End every rank that the launcher started, with this exit code. MPICH returns from here at times."""
    MPI.COMM_WORLD.Abort(code)  # of another communicator, MPICH ends nothing


def check_thread_level() -> None:
    """Raise PlatformError if MPI does not allow calls from several threads at once, which training needs."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise PlatformError(
            f"{library_version()} grants thread level {MPI.Query_thread()}, training needs "
            f"MPI_THREAD_MULTIPLE ({MPI.THREAD_MULTIPLE}): use an MPI built with thread support (see `bagpipe doctor`)"
        )
