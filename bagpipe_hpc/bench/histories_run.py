"""The runs of `bench histories`: jobs of all ranks, one after the other."""

from __future__ import annotations

import gc
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bagpipe_hpc.bench.histories import SCALE, WARM_UP, HistoriesCase, HistoriesRun
from bagpipe_hpc.bench.peers.memory import forget_peak, peak_bytes
from bagpipe_hpc.bench.rank_0 import at_rank_0
from bagpipe_hpc.data.dataset import Progress, refuse_occupied
from bagpipe_hpc.data.synthetic import HISTORIES, synthesize
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.log import warnings_only
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import all_gather_json

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.trainer_batch import TrainerBatch


def measure_histories(
    world: Comm, case: HistoriesCase, directory: Path, overrides: list[str], progress: Progress
) -> list[HistoriesRun]:
    """Train every model on histories of every length.

    Args:
        world: All ranks.
        case: What to measure.
        directory: A directory that does not exist or is empty, which all ranks see. It is deleted.
        overrides: Settings besides those of the case.
        progress: Is called with what happens now.
    Raises:
        BagpipeError: The settings are wrong, or a file cannot be written; the same at every rank.
    Communication: collective over world.
    """
    runs: list[HistoriesRun] = []
    at_rank_0(world, lambda: refuse_occupied(directory))
    try:
        for length in case.lengths:
            data = directory / f"data-{length}"
            at_rank_0(world, partial(_synthesize, data, case.num_samples(length), length))
            for model in case.models:
                progress(f"{model}, histories of {length:,}", len(runs), len(case.lengths) * len(case.models))
                runs.append(_run(world, case, data, directory / f"{model}-{length}", overrides, model, length))
        return runs
    finally:
        if world.rank == 0:
            shutil.rmtree(directory, ignore_errors=True)


def _synthesize(path: Path, num_samples: int, length: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be made: {error.strerror}; choose another --run-dir") from error
    synthesize(path, num_samples, HISTORIES, scale=SCALE, history_length=length, validation_fraction=0.0)


def _run(
    world: Comm, case: HistoriesCase, data: Path, run_path: Path, overrides: list[str], model: str, length: int
) -> HistoriesRun:
    gc.collect()  # the job before
    forget_peak()
    request = Request(None, data, run_path, [*case.settings(model, length), *overrides], has_own_loop=True)
    training, num_elements = Training(), 0
    marks: list[float] = []

    def step(batch: TrainerBatch) -> None:
        from bagpipe_hpc.trainer.trainer_batch import train_on_labels  # only trainers need torch

        nonlocal num_elements
        marks.append(time.perf_counter())
        if WARM_UP <= batch.iteration < WARM_UP + case.iterations:
            num_elements += len(batch.sequences["clicked"].embedded)
        train_on_labels(batch)

    with warnings_only():
        training.play_with(request, step)
    if training.error is not None:
        raise training.error
    seconds = marks[WARM_UP + case.iterations] - marks[WARM_UP] if marks else 0.0
    role = training.name.split()[0]
    ranks = all_gather_json(world, [role, seconds, num_elements, peak_bytes()])
    peaks = {role: max(peak for name, *_, peak in ranks if name == role) for role in {name for name, *_ in ranks}}
    return HistoriesRun(
        model,
        length,
        case.batch_size(length),
        max(seconds for _, seconds, *_ in ranks),
        case.iterations,
        sum(elements for _, _, elements, _ in ranks),
        peaks,
    )
