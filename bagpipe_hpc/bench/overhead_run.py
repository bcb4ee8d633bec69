"""A job in whose middle trainer 0 pauses, while every rank samples what its threads compute.

The clocks of the hosts must agree to a fraction of the pause.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpi4py import MPI

from bagpipe_hpc.bench.overhead import RankIdle
from bagpipe_hpc.bench.thread_times import ThreadTimes
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.transport.collectives import all_gather_json, enter_together

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.trainer_batch import TrainerBatch

FIRST_TRAINER = "trainer 0"  # as `Topology.name_of` begins its name


@dataclass(frozen=True)
class PausedJob:
    """A job that has ended.

    Args:
        error: Why it ended early; None if it did not.
        ranks: What the threads of each rank have computed during the pause; empty if there was none.
        plain: The CPU time of an iteration of the same model in plain PyTorch, in microseconds.
    """

    error: BagpipeError | None
    ranks: list[RankIdle]
    plain: float


def train_with_pause(world: MPI.Intracomm, request: Request, iterations: int, seconds: float) -> PausedJob:
    """Train, and let trainer 0 sleep in the middle. Then train the same model in plain PyTorch at every trainer.

    If the job ends early, one rank prints why.

    Args:
        world: All ranks.
        request: The job; has_own_loop is set.
        iterations: How many iterations the job trains.
        seconds: How long trainer 0 sleeps; 0: not at all.
    Communication: collective over world.
    """
    training = Training()
    pause: tuple[float, float] | None = None
    latest: TrainerBatch | None = None

    def step(batch: TrainerBatch) -> None:
        from bagpipe_hpc.trainer.trainer_batch import train_on_labels  # only trainers need torch

        nonlocal pause, latest
        latest = batch
        if seconds and batch.iteration == iterations // 2 and training.name.startswith(f"{FIRST_TRAINER} "):
            begin = time.time()
            time.sleep(seconds)
            pause = begin, time.time()
        train_on_labels(batch)

    with ThreadTimes() as times:
        training.play_with(request, step)
    training.print_error()
    if training.error is not None:
        return PausedJob(training.error, [], 0.0)
    ranks = []
    if pauses := [each for each in all_gather_json(world, pause) if each]:
        mine = {"role": training.name.split()[0], "shares": times.shares_between(*pauses[0])}
        if pause:
            mine["role"] = f"{FIRST_TRAINER}, which pauses"
        ranks = [RankIdle(**each) for each in all_gather_json(world, mine)]
    enter_together(world)  # all trainers compute at the same time, as they did in the job
    plain = all_gather_json(world, None if latest is None else _plain(latest, iterations))
    return PausedJob(None, ranks, next(each for each in plain if each is not None))


def _plain(batch: TrainerBatch, iterations: int) -> float:
    from bagpipe_hpc.bench.overhead_plain import plain_microseconds

    _, num_tables, dim = batch.embedded.shape
    return plain_microseconds(batch.model, batch.dense, batch.labels, num_tables, dim, iterations)
