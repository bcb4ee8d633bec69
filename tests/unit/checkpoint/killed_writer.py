"""Program: incarnation after incarnation of a job is killed while it writes; every checkpoint it reported must be good.

A process of its own, that forks: starting an interpreter for each incarnation would take most of the time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from bagpipe_hpc.checkpoint.verify import newest_good
from tests.unit.checkpoint.job import Job


def write_until_killed(root: Path, seed: int, report: TextIO) -> None:
    """Write checkpoints, full ones and increments; report name and digest of each once it is committed."""
    job = Job(root, seed)
    job.iteration = 1000 * job.generation
    while True:
        job.train(1)
        increment = job.parent is not None and job.random.random() < 0.7
        print(job.save(servers=2, increment=increment).name, job.digest(), file=report, flush=True)


def run_and_kill(root: Path, seed: int, seconds: float) -> list[list[str]]:
    """One incarnation; what it reported."""
    read_end, write_end = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(read_end)
        with os.fdopen(write_end, "w") as report:
            write_until_killed(root, seed, report)
    os.close(write_end)
    with os.fdopen(read_end) as reports:
        lines = [reports.readline()]
        time.sleep(seconds)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        return [line.split() for line in [*lines, *reports] if line.endswith("\n")]


def main(root: Path, num_incarnations: int) -> None:
    chance = random.Random(0)
    for incarnation in range(num_incarnations):
        reported = run_and_kill(root, incarnation, chance.uniform(0, 0.06))
        found, rejected = newest_good(root)
        assert rejected == [], rejected
        assert found is not None
        # The kill may have come between the commit and the report.
        name, digest = reported[-1]
        assert found.path.name >= name, (found.path, name)
        assert found.path.name != name or found.digest() == digest
        print(incarnation, len(reported))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
