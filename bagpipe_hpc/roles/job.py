"""A training job on one rank: what the oracle decides before the start, and who then does what."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mpi4py import MPI

from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import BagpipeError, DatasetError
from bagpipe_hpc.launcher import check_launcher
from bagpipe_hpc.roles.communicators import check_thread_level, split_world
from bagpipe_hpc.roles.failure import leave_when_told_to_stop, whole_job_fails_together
from bagpipe_hpc.roles.run_directory import writing_to
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.tracing import tracing
from bagpipe_hpc.timeline.merge import delete_traces
from bagpipe_hpc.topology import ORACLE_RANK, Role, Topology
from bagpipe_hpc.trace import parse_iterations
from bagpipe_hpc.training.misfit import misfit

if TYPE_CHECKING:
    from bagpipe_hpc.data.dataset import Dataset


def run_training(
    config_path: Path | None,
    data_path: Path,
    run_path: Path,
    overrides: list[str],
    traced: str | None = None,
) -> bool:
    """Train, as this rank's role; only the oracle reads the configuration and the data.

    Args:
        traced: Iterations to trace, as A:B; None: tracing is off.
    Returns:
        False on every rank, before any work, when the configuration, the data or the number of ranks is wrong; the
        oracle has said why. Any later failure ends all ranks.
    Communication: collective over MPI_COMM_WORLD.
    """
    world = MPI.COMM_WORLD
    with whole_job_fails_together(world, f"rank {world.rank}"):
        spec, dataset = _agree_on_job(world, config_path, data_path, run_path, overrides, traced)
    if spec is None:
        return False
    topology = Topology(world.size, spec.config.roles.servers)
    name = topology.name_of(world.rank)
    with whole_job_fails_together(world, name), tracing(world, topology, spec.traced, run_path):
        if world.rank < 2:  # two, so that one is left to speak whichever dies
            leave_when_told_to_stop(name)
        comms = split_world(world, topology)
        role = topology.role_of(world.rank)
        # Imported here: torch and Horovod only where they are used.
        if role is Role.ORACLE:
            from bagpipe_hpc.roles.oracle import run_oracle

            assert dataset is not None
            run_oracle(spec, topology, comms, dataset, run_path)
        elif role is Role.SERVER:
            from bagpipe_hpc.roles.server import run_server

            run_server(spec, topology, comms)
        else:
            from bagpipe_hpc.roles.trainer import run_trainer

            run_trainer(spec, topology, comms)
        comms.free()
        world.Barrier()
    return True


def _agree_on_job(
    world: MPI.Intracomm,
    config_path: Path | None,
    data_path: Path,
    run_path: Path,
    overrides: list[str],
    traced: str | None,
) -> tuple[JobSpec | None, Dataset | None]:
    """The oracle validates everything and tells all ranks the job: None where there is none, and it has said why.

    The data set is open at the oracle only.

    Launchers kill the job at the first exit code: the message is out before any rank learns that it may leave.
    """
    spec: JobSpec | None = None
    dataset: Dataset | None = None
    if world.rank == ORACLE_RANK:
        try:
            spec, dataset = _validate(world.size, config_path, data_path, run_path, overrides, traced)
        except BagpipeError as error:
            print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
    return world.bcast(spec, root=ORACLE_RANK), dataset


def _validate(
    world_size: int,
    config_path: Path | None,
    data_path: Path,
    run_path: Path,
    overrides: list[str],
    traced: str | None,
) -> tuple[JobSpec, Dataset]:
    from bagpipe_hpc.data.dataset import open_dataset

    check_launcher(os.environ, world_size, MPI.Get_library_version(), shlex.join(["bagpipe", *sys.argv[1:]]))
    check_thread_level()
    config = load_config(config_path, overrides)
    Topology(world_size, config.roles.servers)
    iterations = None if traced is None else parse_iterations(traced)
    dataset = open_dataset(data_path)
    schema = dataset.schema
    if problem := misfit(config.model, schema):
        raise DatasetError(f"{data_path} {problem}")
    if dataset.train.num_samples == 0:
        raise DatasetError(f"{data_path} has no training samples")
    with writing_to(run_path):
        run_path.mkdir(parents=True, exist_ok=True)
        (run_path / "summary.json").unlink(missing_ok=True)  # of an earlier run: it must not pass for this one's
        delete_traces(run_path)
        (run_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return JobSpec(config, schema.num_embeddings, schema.num_dense, iterations), dataset
