"""In place of `bagpipe`: training as job scripts ask for it, from the start each time; DONE is written last."""

from __future__ import annotations

import sys
from pathlib import Path

from mpi4py import MPI

from bagpipe_hpc.cli.main import app


def main(arguments: list[str]) -> None:
    place = arguments.index("--resume")
    run_dir = Path(arguments[arguments.index("--run-dir") + 1])
    status = app(arguments[:place] + arguments[place + 2 :], standalone_mode=False)
    if MPI.COMM_WORLD.rank == 0 and not status:
        (run_dir / "DONE").touch()
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
