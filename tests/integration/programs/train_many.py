"""Several training jobs one after the other in one MPI world, which saves their start-up.

Usage: train_many.py DATA OUT JOBS.json, the last a list of objects: `set`, a list of `section.key=value`; `resume`, as
`--resume`; `run`, the run directory within OUT (default: the job's number); `data`, instead of DATA.
Exit codes go to OUT/codes.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mpi4py import MPI

from bagpipe_hpc.launch.job import run_training
from bagpipe_hpc.launch.request import Request

if __name__ == "__main__":
    data, out, jobs = (Path(argument) for argument in sys.argv[1:])
    codes = [
        run_training(
            Request(
                None,
                Path(job.get("data", data)),
                out / job.get("run", str(index)),
                job.get("set", []),
                resume=job.get("resume"),
            )
        )
        for index, job in enumerate(json.loads(jobs.read_text()))
    ]
    if MPI.COMM_WORLD.rank == 0:
        (out / "codes.json").write_text(json.dumps(codes))
