"""Jobs with own models one after the other in one MPI world.

Usage: train_own.py DATA OUT JOBS.json, the last a list of objects: `by`, "command", "run" or the name of a loop of
own_models; `set`, a list of `section.key=value`; `factory`, a function of own_models, or none; `run`, the run directory
within OUT (default: the job's number); `resume`. Exit codes and rank 0's summaries go to codes.json and summaries.json
in OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

import bagpipe_hpc
from bagpipe_hpc.config import load_config
from bagpipe_hpc.launch.job import run_training
from bagpipe_hpc.launch.request import Request
from tests.integration.programs import own_models


def play(data: Path, run_dir: Path, job: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    overrides, factory, resume = job["set"], job.get("factory"), job.get("resume")
    if job["by"] == "command":
        named = [f"model.factory={own_models.__name__}:{factory}"] if factory else []
        return run_training(Request(None, data, run_dir, [*named, *overrides], resume=resume)), None
    build = getattr(own_models, factory) if factory else None
    config = load_config(None, overrides)
    if job["by"] == "run":
        return 0, bagpipe_hpc.run(config, build, data=data, run_dir=run_dir, resume=resume)
    settings = config.model_dump()
    with bagpipe_hpc.session(settings, build, data=str(data), run_dir=str(run_dir), resume=resume) as session:
        getattr(own_models, job["by"])(session)
    return 0, session.summary


if __name__ == "__main__":
    data, out, jobs = (Path(argument) for argument in sys.argv[1:])
    results = [
        play(data, out / job.get("run", str(index)), job) for index, job in enumerate(json.loads(jobs.read_text()))
    ]
    if MPI.COMM_WORLD.rank == 0:
        codes, summaries = zip(*results, strict=True)
        (out / "codes.json").write_text(json.dumps(codes))
        (out / "summaries.json").write_text(json.dumps(summaries))
    else:
        assert all(summary is None for _, summary in results)
