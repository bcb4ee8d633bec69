"""The runs of `bench next-click`: each model with all ranks, then in plain PyTorch at rank 0 or with static tables."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bagpipe_hpc.bench.next_click.case import Comparison, NextClickCase, Quality
from bagpipe_hpc.bench.next_click.log import description, read_clicks, write_table
from bagpipe_hpc.bench.rank_0 import at_rank_0
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Dataset, Progress, open_dataset, refuse_occupied
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.log import warnings_only
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import all_gather_json

STATIC, DYNAMIC = "static", "dynamic"  # data sets


def prepare(case: NextClickCase, log: Path, directory: Path, progress: Progress) -> None:
    """Make the data set, or both of them: STATIC, and DYNAMIC if the case has dynamic tables.

    Args:
        case: What to train.
        log: The log of clicks.
        directory: For the table and the data sets.
        progress: Is called with what happens now.
    Raises:
        BagpipeError: The log cannot be read, or the data set cannot be written.
    Communication: none.
    """
    progress("reading the log", 0, 0)
    clicks = read_clicks(log, case.num_clicks, has_users=case.is_dynamic)
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
    for name in (STATIC, DYNAMIC) if case.is_dynamic else (STATIC,):
        columns = description(case.max_length, has_users=case.is_dynamic, is_dynamic=name == DYNAMIC)
        import_files([table], directory / name, columns, settings, progress=progress)
    table.unlink()


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
    if case.is_dynamic:
        ours = _train(world, case, model, directory, DYNAMIC)
        progress(f"{model}, with static tables", 0, 0)
        return Comparison(model, ours, _train(world, case, model, directory, STATIC))
    return Comparison(
        model, _train(world, case, model, directory, STATIC), _train_plainly(world, case, model, directory, progress)
    )


def _train_plainly(world: Comm, case: NextClickCase, model: str, directory: Path, progress: Progress) -> Quality:
    """Train a model in plain PyTorch, at rank 0."""
    plain: list[Quality] = []

    def train() -> None:
        from bagpipe_hpc.bench.next_click import plain as module  # torch, at rank 0 only

        config, dataset = load_config(None, case.settings(model)), open_dataset(directory / STATIC)
        num_parts = Topology(world.size, config.roles.servers).num_trainers
        total = config.training.epochs * dataset.train.num_samples
        phase = f"{model}, in plain PyTorch"
        plain.append(module.train_plainly(config, dataset, num_parts, lambda done: progress(phase, done, total)))

    at_rank_0(world, train)
    return Quality(**all_gather_json(world, asdict(plain[0]) if plain else None)[0])


def _train(world: Comm, case: NextClickCase, model: str, directory: Path, data: str) -> Quality:
    """Train a model with all ranks."""
    run_path = directory / f"{model}-{data}"
    training = Training()
    with warnings_only():
        for _ in training.play(Request(None, directory / data, run_path, case.settings(model))):
            raise AssertionError("the built-in loop makes its steps itself")
    if training.error is not None:
        raise training.error
    found = None
    if world.rank == 0:
        summary = json.loads((run_path / "summary.json").read_text("utf-8"))
        metrics = "auc", "grouped_auc", "hit_rate", "log_loss"
        found = {"seconds": summary["seconds"], "rows": _num_rows(open_dataset(directory / data), summary)}
        found |= {name: summary[f"validation_{name}"] for name in metrics}
    return Quality(**all_gather_json(world, found)[0])


def _num_rows(dataset: Dataset, summary: dict[str, Any]) -> int:
    """Return how many rows are in use after training: all those of static tables."""
    dynamic = dataset.schema.dynamic_tables
    live = sum(summary["dynamic_tables"][name]["live"] + rules.default_rows for name, rules in dynamic.items())
    static = sum(table.num_embeddings for table in dataset.schema.own_tables if table.name not in dynamic)
    return int(live + static)
