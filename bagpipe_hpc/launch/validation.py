"""The checks of the oracle before a job starts: settings, data, checkpoint, model and run directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.config import Config, Settings
from bagpipe_hpc.data.dataset import Dataset, open_dataset, require_labels
from bagpipe_hpc.data.frequent_ids import frequent_ids
from bagpipe_hpc.data.job_schema import job_schema
from bagpipe_hpc.data.time_windows import TimeWindow, read_windows
from bagpipe_hpc.errors import ConfigError, DatasetError, TopologyError
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.launch.resume import (
    check_dynamic_tables,
    check_fit,
    check_position,
    keeps_caches,
    open_checkpoints,
    shown_trainers,
)
from bagpipe_hpc.launch.role_placement import describe
from bagpipe_hpc.launch.run_settings import (
    require_named_factory,
    settings_of_checkpoint,
    settings_of_job,
    write_run_settings,
)
from bagpipe_hpc.launch.time_limit import seconds_left
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.oracle.batch_stream import max_lengths
from bagpipe_hpc.oracle.budget import Budget
from bagpipe_hpc.oracle.metrics import require_new_output
from bagpipe_hpc.oracle.oracle import OracleJob
from bagpipe_hpc.oracle.saved_state import SavedState
from bagpipe_hpc.runtime.data_position import BEGINNING
from bagpipe_hpc.runtime.run_directory import DONE, refuse_training, writing_to
from bagpipe_hpc.runtime.run_lock import Ownership
from bagpipe_hpc.runtime.spec import CheckpointSpec, JobSpec
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.timeline.merge import delete_traces
from bagpipe_hpc.topology import Topology, trainers_for
from bagpipe_hpc.trace import parse_iterations
from bagpipe_hpc.trainer.dense_backend import choose_backend
from bagpipe_hpc.trainer.exchange_choice import NONE, choose_exchange
from bagpipe_hpc.trainer.model_check import (
    fault_of_dynamic_tables,
    fault_of_labels,
    fault_of_model,
    fault_of_tables,
)
from bagpipe_hpc.trainer.offer import TrainerOffer, check_execution, check_gpus


@dataclass(frozen=True)
class CheckedJob:
    """A job that may start, as the oracle has it.

    Args:
        spec: The job, as all ranks see it.
        start: Where training starts.
        oracle_job: The parts of the job that only the oracle has.
        ownership: The ownership of the run directory.
    """

    spec: JobSpec
    start: StartingPoint
    oracle_job: OracleJob
    ownership: Ownership


def read_config(request: Request) -> tuple[Config, list[str]]:
    """Return all settings, and lines for the user that say where they come from.

    Raises:
        BagpipeError: settings are wrong. The message says which, and what is allowed.
    """
    if request.evaluates_only:
        return _evaluation_config(request), []
    return settings_of_job(request.settings, _overrides(request), request.run_path, request.resume)


def check_job(
    hosts: Sequence[str], offers: Sequence[TrainerOffer], config: Config, lines: Sequence[str], request: Request
) -> CheckedJob:
    """Check everything that can be wrong with a job before it starts, and begin its run directory.

    Args:
        hosts: The hosts of the ranks, in the order of roles.
        offers: What each trainer has to compute with, to sum dense gradients and to exchange rows, by trainer rank.
        config: The settings of the job.
        lines: Lines for the user that say where the settings come from. They are printed.
        request: The request for the job.
    Raises:
        BagpipeError: something is wrong. The message says what.
    Communication: none; the oracle calls this.
    """
    if request.predictions is not None:
        require_new_output(request.predictions)
    budget = Budget(seconds_left(request.time_limit, os.environ, time.time()), time.perf_counter())
    if not config.dense_optimizer.is_plain_sgd:
        from bagpipe_hpc.trainer.dense_optimizer import check_dense_optimizer  # imports torch, which takes seconds

        check_dense_optimizer(config.dense_optimizer)
    topology = Topology(len(hosts), config.roles.servers)
    check_gpus(config.training.device, offers)
    check_execution(config.training.execution, offers)
    exchange, said_of_exchange = choose_exchange(config.training.exchange, offers)
    backend, said_of_backend = "none", ""
    if request.evaluates_only:
        config = with_fitting_blocks(config, topology.num_trainers)
    else:
        check_blocks(config.training.blocks, topology.num_trainers)
        backend, said_of_backend = choose_backend(config.dense_backend, offers)
    iterations = None if request.traced is None else parse_iterations(request.traced)
    dataset = open_dataset(request.data_path)
    if request.predictions is None:
        require_labels(dataset, "an evaluation" if request.evaluates_only else "training")
    if problem := fault_of_dynamic_tables(config, dataset.schema, evaluates_only=request.evaluates_only):
        raise ConfigError(problem)
    dataset = replace(dataset, schema=job_schema(config, dataset.schema))
    schema = dataset.schema
    if problem := fault_of_model(config, schema):
        raise DatasetError(f"{request.data_path} {problem}")
    if problem := fault_of_tables(config, schema) or fault_of_labels(config, schema):
        raise ConfigError(problem)
    if config.model.factory is not None:
        from bagpipe_hpc.trainer.own_model import build_own_model, model_inputs
        from bagpipe_hpc.trainer.torch_state import keeping_torch

        with keeping_torch():
            build_own_model(config.model, model_inputs(config, schema), request.build_model)
    _check_evaluation(config, dataset, request)
    windows = [] if request.evaluates_only else _windows_of(config, dataset)
    frequent = {} if request.evaluates_only else frequent_ids(dataset, max_lengths(config, schema))
    ownership = Ownership(_owned_directories(config, request))
    try:
        if request.evaluates_only:
            refuse_training(request.run_path)
        for line in lines:
            LOGGER.info(line)
        checkpoints, start, saved = _choose_checkpoint(config, topology, dataset, request)
        _begin_run_directory(config, request)
    except BaseException:
        ownership.release()
        raise
    spec = JobSpec(
        config,
        schema,
        None if iterations is None else (iterations.start, iterations.stop),
        start.position,
        checkpoints,
        None if start.checkpoint is None else start.checkpoint.path.resolve(),
        start.keeps_caches,
        request.predictions,
        request.evaluates_only,
        backend,
        exchange,
    )
    LOGGER.info(describe(hosts, topology))
    if backend != "none" or config.dense.backend is not None:
        LOGGER.info(said_of_backend)
    if exchange != NONE:
        LOGGER.info(said_of_exchange)
    oracle_job = OracleJob(dataset, request.run_path, budget, saved, ownership.require, windows, frequent)
    return CheckedJob(spec, start, oracle_job, ownership)


def with_fitting_blocks(config: Config, num_trainers: int) -> Config:
    """Return settings without training.blocks if these trainers cannot have equally many blocks each.

    An evaluation has no sums that depend on the blocks.
    """
    if config.training.blocks is None or config.training.blocks % num_trainers == 0:
        return config
    return config.model_copy(update={"training": config.training.model_copy(update={"blocks": None})})


def check_blocks(num_blocks: int | None, num_trainers: int) -> None:
    """Raise TopologyError unless every trainer can compute equally many blocks (training.blocks)."""
    if num_blocks is not None and num_blocks % num_trainers:
        raise TopologyError(
            f"training.blocks is {num_blocks}, which the number of trainers must divide: it may be "
            f"{trainers_for(num_blocks)}, but this job has {num_trainers} trainers; start it with another number "
            "of ranks or of roles.servers"
        )


def _owned_directories(config: Config, request: Request) -> list[Path]:
    """Return the directories that a job writes into: the run directory and, if it is set, that of checkpoints."""
    directory = config.checkpoint.directory if config.checkpoint.enabled else None
    return [request.run_path, *([Path(directory)] if directory else [])]


def _begin_run_directory(config: Config, request: Request) -> None:
    run_path = request.run_path
    if (run_path / DONE).exists() and not request.evaluates_only and request.resume is None:
        LOGGER.warning("%s has a finished job: this job replaces its settings, metrics and summary", run_path)
    with writing_to(run_path):
        for name in (DONE, "summary.json"):
            (run_path / name).unlink(missing_ok=True)  # a file of an earlier run must not look like one of this run
        delete_traces(run_path)
    write_run_settings(run_path, config)


def _overrides(request: Request) -> list[str]:
    if request.build_model is None:
        return request.overrides
    from bagpipe_hpc.trainer.own_model import title_of  # imports torch, which takes seconds

    return [*request.overrides, f"model.factory={json.dumps(title_of(request.build_model))}"]


def _check_evaluation(config: Config, dataset: Dataset, request: Request) -> None:
    """Raise DatasetError if evaluations are asked for and the data set has no samples for them."""
    evaluation = config.evaluation
    if dataset.split(evaluation.split).num_samples > 0:
        return
    if request.evaluates_only:
        raise DatasetError(f"{request.data_path} has no {evaluation.split} samples; choose the other --split")
    if evaluation.enabled and evaluation.every is not None:
        raise DatasetError(
            f"{request.data_path} has no {evaluation.split} samples, but evaluation.every is {evaluation.every}; "
            "choose the other evaluation.split, or remove evaluation.every"
        )


def _windows_of(config: Config, dataset: Dataset) -> list[TimeWindow]:
    """Return the windows of the training samples; none unless the job trains in time order.

    Raises:
        DatasetError: samples have no times, or are not in time order.
        ConfigError: there are too many windows.
    """
    if config.training.time_window is None:
        return []
    if dataset.schema.time is None:
        raise DatasetError(
            f"{dataset.path}: training.order is time, but its samples have no times; import it with a schema file that "
            "names the column of times (`time`), or set training.order to stored"
        )
    return read_windows(dataset.train, config.training.time_window)


def _evaluation_config(request: Request) -> Config:
    """Return the settings of the checkpoint, changed so that the job only evaluates."""
    assert request.resume is not None
    checkpoint = Checkpoint.open(Path(request.resume))
    settings = settings_of_checkpoint(checkpoint)
    require_named_factory(settings, Settings().overridden(request.overrides))
    only = ["checkpoint.enabled=false", "evaluation.enabled=true", "tensorboard=false", "training.execution=eager"]
    only.append(f"training.iterations={checkpoint.manifest.iteration}")
    return settings.overridden([*request.overrides, *only]).validated()


def _choose_checkpoint(
    config: Config, topology: Topology, dataset: Dataset, request: Request
) -> tuple[CheckpointSpec | None, StartingPoint, SavedState]:
    """Return where checkpoints go, where training starts, and the state that the oracle starts with."""
    resume, fresh = request.resume, (StartingPoint(BEGINNING), SavedState())
    if not config.checkpoint.enabled and resume is None:
        return None, *fresh
    root, generation, checkpoint = open_checkpoints(config, request.run_path, resume)
    checkpoints = CheckpointSpec(root, generation)
    if checkpoint is None:
        if resume is not None:
            LOGGER.info("%s has no good checkpoint: training starts afresh", root)
        return checkpoints, *fresh
    position = check_fit(checkpoint, config, dataset)
    start = StartingPoint(position, checkpoint, keeps_caches(checkpoint, dataset.schema, topology))
    blocks = config.training.blocks
    saved = SavedState.read(start, topology.num_trainers, blocks, evaluates_only=request.evaluates_only)
    if not request.evaluates_only:
        check_position(checkpoint, config, dataset)
    dynamic = saved.boundary.dynamic() if saved.boundary and saved.boundary.dynamic else None
    changes = check_dynamic_tables(checkpoint, dataset.schema, dynamic)
    LOGGER.info("going on from %s", checkpoint.path)
    for line in changes:
        LOGGER.info(line)
    for line in shown_trainers(checkpoint, config, topology) if not request.evaluates_only else []:
        LOGGER.info(line)
    return checkpoints, start, saved
