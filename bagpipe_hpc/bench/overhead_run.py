"""A job in whose middle trainer 0 pauses, while every rank samples what its threads compute.

The clocks of the hosts must agree to a fraction of the pause.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpi4py import MPI

from bagpipe_hpc.bench.overhead import RankIdle
from bagpipe_hpc.bench.thread_times import ThreadTimes
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.transport.collectives import all_gather_json

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.trainer_batch import TrainerBatch

FIRST_TRAINER = "trainer 0"  # as `Topology.name_of` begins its name


def train_with_pause(
    world: MPI.Intracomm, request: Request, before_iteration: int, seconds: float
) -> tuple[Training, list[RankIdle]]:
    """Train, and let trainer 0 sleep before one of its steps.

    Args:
        world: All ranks.
        request: The job; has_own_loop is set.
        before_iteration: The iteration before which trainer 0 sleeps.
        seconds: How long it sleeps; 0: not at all.
    Returns:
        The job, which may have ended with an error, and what the threads of each rank have computed meanwhile.
    Communication: collective over world.
    """
    training = Training()
    pause: tuple[float, float] | None = None

    def step(batch: TrainerBatch) -> None:
        from bagpipe_hpc.trainer.trainer_batch import train_on_labels  # only trainers need torch

        nonlocal pause
        if seconds and batch.iteration == before_iteration and training.name.startswith(f"{FIRST_TRAINER} "):
            begin = time.time()
            time.sleep(seconds)
            pause = begin, time.time()
        train_on_labels(batch)

    with ThreadTimes() as times:
        training.play_with(request, step)
    pauses = [each for each in all_gather_json(world, pause) if each]
    if not pauses:
        return training, []
    begin, end = pauses[0]
    mine = {"role": training.name.split()[0], "shares": times.shares_between(begin, end)}
    if pause:
        mine["role"] = f"{FIRST_TRAINER}, which pauses"
    return training, [RankIdle(**each) for each in all_gather_json(world, mine)]
