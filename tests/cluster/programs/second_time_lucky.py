"""In place of `bagpipe`: the first start waits for SIGUSR1 on all ranks and exits with 75, or loses a rank, as the
variable FIRST_START says; the second ends well.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mpi4py import MPI

EXIT_CHECKPOINT = 75


def main(run_dir: Path) -> None:
    world = MPI.COMM_WORLD
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    world.Barrier()  # from here on a signal is not lost
    is_first = world.bcast(not (run_dir / "started").exists())
    world.Barrier()
    (run_dir / "started").touch()
    if is_first and os.environ["FIRST_START"] == "signal":
        signal.sigwait({signal.SIGUSR1})
        world.Barrier()
        MPI.Finalize()
        sys.exit(EXIT_CHECKPOINT)
    if is_first and world.rank == world.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.Barrier()
    if world.rank == 0:
        (run_dir / "DONE").touch()


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--run-dir") + 1]))
