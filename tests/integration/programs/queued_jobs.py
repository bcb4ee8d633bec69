"""As train_many.py, on a device that delays its work: a job may have `device`, the arguments of QueuedDevice.

If a job has `tries`, its trainers believe that their host has a GPU, and try how to exchange rows.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

from bagpipe_hpc.launch.job import run_training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.trainer import exchange_choice, trainer
from bagpipe_hpc.trainer.device.choose import choose_device
from bagpipe_hpc.trainer.device.visible import offers_gpu
from tests.queued_device import QueuedDevice


def has_gpu() -> bool:
    """In place of `offers_gpu`."""
    return True


def play(job: dict[str, Any], data: Path, run_dir: Path) -> int:
    options = job.get("device")
    trainer.choose_device = choose_device if options is None else lambda *_: QueuedDevice(**options)  # type: ignore[attr-defined]
    exchange_choice.offers_gpu = has_gpu if job.get("tries") else offers_gpu  # type: ignore[attr-defined, assignment]
    return run_training(Request(None, data, run_dir, job["set"], resume=job.get("resume")))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    data, out, jobs = (Path(argument) for argument in sys.argv[1:])
    codes = [play(job, data, out / job["run"]) for job in json.loads(jobs.read_text())]
    if MPI.COMM_WORLD.rank == 0:
        (out / "codes.json").write_text(json.dumps(codes))
