"""A job in one process. The ranks are threads, and communicators, windows and the dense sum are in memory.

    calling thread            threads
      1 trainer 0               2 the oracle, the servers
      3 all threads have ended, or the first failure has ended them

The calling thread is the trainer, because the user's own training loop runs there. MPI does not start and Horovod is
not imported. A failure of any rank is raised in the calling thread, and the process goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from bagpipe_hpc.errors import BagpipeError, PlatformError
from bagpipe_hpc.launcher import launched_sizes
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.runtime.failure import threads_fail_by
from bagpipe_hpc.threaded_job import JobIsOverError, ThreadedJob
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.memory_comm import MemoryComm
from bagpipe_hpc.transport.mpi import is_mpi_running, launched_ranks

NUM_TRAINERS = 1
END_SECONDS = 5.0  # how long to wait, after a failure, for ranks to end


def require_one_process(environment: Mapping[str, str]) -> None:
    """Check that no launcher has started further processes.

    Raises:
        PlatformError: a launcher has started further processes.
    """
    announced = launched_sizes(environment)
    if is_mpi_running():
        announced["MPI_COMM_WORLD"] = launched_ranks().size
    for name, size in announced.items():
        if size > 1:
            raise PlatformError(
                f"a local job is one process, but {name} says that {size} were launched: start it without mpirun or "
                "srun, or remove --local (in Python: local=True)"
            )


def local_world(num_servers: int) -> tuple[list[Comm], Topology]:
    """Return the communicator of the world for each rank, and the roles of the ranks."""
    topology = Topology(1 + num_servers + NUM_TRAINERS, num_servers)
    return cast(list[Comm], MemoryComm.world(topology.world_size)), topology


class LocalRanks:
    """Runs ranks as threads.

    `job` can be marked as failed, which ends all ranks.

    Args:
        topology: The roles of the ranks.
    """

    def __init__(self, topology: Topology) -> None:
        self.job = ThreadedJob()
        self._topology = topology
        self._threads: list[threading.Thread] = []

    @contextmanager
    def ending_together(self, caller: str) -> Iterator[None]:
        """Make the calling thread one of the ranks inside the block. The first failure of any rank ends all ranks.

        At its end, the block waits for the other ranks.

        Args:
            caller: The name of the rank of the calling thread.
        Raises:
            BaseException: the error of the rank that failed first. Unless it is a BagpipeError, a note names that rank.
        """
        self.job.adopt()
        try:
            with threads_fail_by(lambda error: self.job.fail("a thread", error)):
                yield
                self._join()
        except BaseException as error:
            self.job.fail(caller, error)
            self._join()
        finally:
            self.job.leave()
        if self.job.failure is not None:
            name, cause = self.job.failure
            if not isinstance(cause, (BagpipeError, GeneratorExit)):
                cause.add_note(f"bagpipe: {name} failed")
            raise cause

    def start(self, world_rank: int, play: Callable[[], object]) -> None:
        """Play a rank in a thread."""
        name = self._topology.name_of(world_rank)

        def run() -> None:
            try:
                play()
            except JobIsOverError:
                raise
            except BaseException as error:
                self.job.fail(name, error)

        self._threads.append(start_thread(name, run))

    def _join(self) -> None:
        """Wait until all ranks have ended; after a failure, no longer than END_SECONDS, because a rank may hang."""
        deadline: float | None = None
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            if self.job.failure is not None and deadline is None:
                deadline = time.monotonic() + END_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                return
            alive[0].join(0.05)
