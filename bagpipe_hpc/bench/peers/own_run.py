"""A run of bagpipe_hpc: a job of all ranks, with a loop that takes the times between its batches."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from bagpipe_hpc.bench.peers.case import PeersCase
from bagpipe_hpc.bench.peers.memory import forget_peak, peak_bytes
from bagpipe_hpc.bench.peers.systems import System
from bagpipe_hpc.bench.peers.turn import RankTurn, TrainerTurn
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.log import warnings_only
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch


def run_job(case: PeersCase, system: System, run_path: Path) -> RankTurn:
    """Train a system of bagpipe_hpc from its initial parameters.

    The time is that from the arrival of a batch at the training loop to the arrival of a later one. Everything that the
    job does in an iteration is part of it: planning, fetches, the exchange and write-backs.

    Raises:
        BagpipeError: The settings or the data are wrong, the same at every rank.
    Communication: collective over all ranks.
    """
    forget_peak()
    request = Request(None, case.data, run_path, case.settings(system.settings), has_own_loop=True)
    training = Training()
    losses: list[Tensor] = []
    marks: dict[int, tuple[float, float]] = {}

    def step(batch: TrainerBatch) -> None:
        marks[batch.iteration] = (time.perf_counter(), time.time())
        sum_of_losses = functional.binary_cross_entropy_with_logits(batch.logits(), batch.labels, reduction="sum")
        loss = sum_of_losses / batch.num_global_samples
        losses.append(loss.detach())
        batch.step(loss)

    with warnings_only():
        training.play_with(request, step)
    if training.error is not None:
        raise training.error
    if not marks:
        return RankTurn(peak_bytes=peak_bytes())
    begin, end = marks[case.own_warm_up], marks[case.own_warm_up + case.iterations]
    values = tuple(float(loss) for loss in losses[: case.num_trained])
    return RankTurn(TrainerTurn(end[0] - begin[0], begin[1], end[1], values, peak_bytes()))


def delete_run(run_path: Path) -> None:
    """Delete the run directory of a job that has ended."""
    shutil.rmtree(run_path, ignore_errors=True)
