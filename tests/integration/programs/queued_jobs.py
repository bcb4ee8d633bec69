"""As train_many.py, on a device that delays its work: a job may have `device`, the arguments of QueuedDevice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

from bagpipe_hpc.launch.job import run_training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.trainer import trainer
from bagpipe_hpc.trainer.device.choose import choose_device
from tests.queued_device import QueuedDevice


def play(job: dict[str, Any], data: Path, run_dir: Path) -> int:
    options = job.get("device")
    trainer.choose_device = choose_device if options is None else lambda *_: QueuedDevice(**options)  # type: ignore[attr-defined]
    return run_training(Request(None, data, run_dir, job["set"], resume=job.get("resume")))


if __name__ == "__main__":
    data, out, jobs = (Path(argument) for argument in sys.argv[1:])
    codes = [play(job, data, out / job["run"]) for job in json.loads(jobs.read_text())]
    if MPI.COMM_WORLD.rank == 0:
        (out / "codes.json").write_text(json.dumps(codes))
