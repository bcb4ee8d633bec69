"""The runs of `bench next-click`: each model with all ranks, then in plain PyTorch at rank 0."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from bagpipe_hpc.bench.next_click.case import Comparison, NextClickCase, Quality
from bagpipe_hpc.bench.next_click.log import description, read_clicks, write_table
from bagpipe_hpc.bench.rank_0 import at_rank_0
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Progress, open_dataset, refuse_occupied
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.log import warnings_only
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import all_gather_json


def prepare(case: NextClickCase, log: Path, directory: Path, progress: Progress) -> Path:
    """Make the data set.

    Args:
        case: What to train.
        log: The log of clicks.
        directory: For the table and the data set.
        progress: Is called with what happens now.
    Returns:
        The directory of the data set.
    Raises:
        BagpipeError: The log cannot be read, or the data set cannot be written.
    Communication: none.
    """
    progress("reading the log", 0, 0)
    clicks = read_clicks(log, case.num_clicks)
    table = directory / "clicks.csv"
    progress("sampling negatives", 0, 0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        num_predicted = write_table(clicks, table, case.num_negatives, case.seed)
    except OSError as error:
        raise ConfigError(f"{table} cannot be written: {error.strerror}; choose another --run-dir") from error
    if not num_predicted:
        raise ConfigError(f"{log}: no session has a second click within {case.num_clicks:,} clicks; raise --clicks")
    settings = ImportSettings(validation_fraction=case.validation_fraction)
    import_files([table], directory / "data", description(case.max_length), settings, progress=progress)
    table.unlink()
    return directory / "data"


def compare(world: Comm, case: NextClickCase, log: Path, directory: Path, progress: Progress) -> list[Comparison]:
    """Train all models both ways.

    Args:
        world: All ranks.
        case: What to train.
        log: The log of clicks.
        directory: A directory that does not exist or is empty, which all ranks see. It is deleted.
        progress: Is called with what happens now.
    Raises:
        BagpipeError: The settings or the log are wrong; the same at every rank.
    Communication: collective over world.
    """
    at_rank_0(world, lambda: refuse_occupied(directory))
    try:
        at_rank_0(world, lambda: prepare(case, log, directory, progress))
        return [_compare(world, case, model, directory, progress) for model in case.models]
    finally:
        if world.rank == 0:
            shutil.rmtree(directory, ignore_errors=True)


def _compare(world: Comm, case: NextClickCase, model: str, directory: Path, progress: Progress) -> Comparison:
    progress(f"{model}, with {world.size} ranks", 0, 0)
    ours = _train(world, case, model, directory)
    plain: list[Quality] = []

    def train_plainly() -> None:
        from bagpipe_hpc.bench.next_click import plain as module  # torch, at rank 0 only

        config, dataset = load_config(None, case.settings(model)), open_dataset(directory / "data")
        num_parts = Topology(world.size, config.roles.servers).num_trainers
        total = config.training.epochs * dataset.train.num_samples
        phase = f"{model}, in plain PyTorch"
        plain.append(module.train_plainly(config, dataset, num_parts, lambda done: progress(phase, done, total)))

    at_rank_0(world, train_plainly)
    found = all_gather_json(world, asdict(plain[0]) if plain else None)[0]
    return Comparison(model, ours, Quality(**found))


def _train(world: Comm, case: NextClickCase, model: str, directory: Path) -> Quality:
    """Train a model with all ranks."""
    run_path = directory / model
    training = Training()
    with warnings_only():
        for _ in training.play(Request(None, directory / "data", run_path, case.settings(model))):
            raise AssertionError("the built-in loop makes its steps itself")
    if training.error is not None:
        raise training.error
    found = None
    if world.rank == 0:
        summary = json.loads((run_path / "summary.json").read_text("utf-8"))
        metrics = "auc", "grouped_auc", "hit_rate", "log_loss"
        found = {"seconds": summary["seconds"]} | {name: summary[f"validation_{name}"] for name in metrics}
    return Quality(**all_gather_json(world, found)[0])
