"""From a data set and settings to predictions of a grid: reads samples, builds the model, measures computing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset, Progress, open_dataset, require_labels
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.jobs.description import describe
from bagpipe_hpc.oracle.batch_stream import max_lengths, newest_elements
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.simulation.network import Network
from bagpipe_hpc.sizing.compute_time import ComputeTime, estimate, measure, through
from bagpipe_hpc.sizing.memory import Sizes
from bagpipe_hpc.sizing.recommendation import (
    Job,
    Prediction,
    SmallerCache,
    grid,
    predict,
    recommend,
    recommended_rows,
    smaller_caches,
)
from bagpipe_hpc.trainer.build import build_trained_model
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device_memory import need_of
from bagpipe_hpc.trainer.feature_inputs import vectors_of
from bagpipe_hpc.trainer.model_check import fault_of_model

MIN_ITERATIONS = 30  # fewer say little about long jobs
MAX_CHOICES = 500


@dataclass(frozen=True)
class Question:
    """What the user asks the advisor.

    Args:
        data: The data set.
        config: The settings of the job.
        trainers, servers, batch_sizes, windows, prefetch_depths: The values of the grid.
        network: The links of the nodes.
        echoes_gets: As in Links.
        gpu: Name of a GPU to estimate; None: none.
        compute: Seconds per sample; None: measure here, unless there is a GPU.
        trainers_per_node: Trainers that share a node.
        max_samples: Read at most this many samples.
    """

    data: Path
    config: Config
    trainers: tuple[int, ...]
    servers: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    windows: tuple[int, ...]
    prefetch_depths: tuple[int, ...]
    network: Network
    echoes_gets: bool = False
    gpu: str | None = None
    compute: float | None = None
    trainers_per_node: int = 1
    max_samples: int = 500_000


@dataclass(frozen=True)
class Advice:
    """What the advisor answers.

    Args:
        predictions: Of the grid.
        best: The recommended one.
        caches: What smaller caches of it cost.
        compute: How long a trainer computes.
        notes: What limits the answer.
    """

    predictions: Sequence[Prediction]
    best: Prediction
    caches: Sequence[SmallerCache]
    compute: ComputeTime
    notes: Sequence[str]


def advise(question: Question, progress: Progress) -> Advice:
    """Predict the grid, and recommend one of its choices.

    Raises:
        DatasetError: the data set cannot be read, has no labels, or has dynamic tables.
        ConfigError: the grid is empty or too large, the model does not fit the data, or computing cannot be measured.
        CacheTooSmallError: never; caches are as large as needed.
    """
    config = question.config
    choices = grid(
        question.trainers,
        question.servers,
        question.batch_sizes,
        question.windows,
        question.prefetch_depths,
        is_local=config.oracle.placement == "locality",
    )
    _check_grid(choices)
    dataset = _open(question.data, config)
    job = _job(question, dataset, progress)
    batches = {size: read_batches(dataset, config, size, question.max_samples) for size in question.batch_sizes}
    notes = [job.compute.source, *_notes(batches)]
    predictions = []
    for number, choice in enumerate(choices):
        progress("planning choices", number, len(choices))
        predictions.append(predict(batches[choice.batch_size], dataset.schema, choice, job))
    best = recommend(predictions)
    progress("planning smaller caches", 0, 0)
    caches = smaller_caches(batches[best.choice.batch_size], dataset.schema, best, job)
    return Advice(predictions, best, caches, job.compute, notes)


def read_batches(dataset: Dataset, config: Config, batch_size: int, max_samples: int) -> list[Batch]:
    """Return the batches of the first samples, in as many passes as the job makes if there are few."""
    limit = min(max_samples, dataset.train.num_samples)
    lengths = max_lengths(config, dataset.schema)
    per_pass = -(-limit // batch_size)
    passes = min(config.training.epochs, -(-MIN_ITERATIONS // per_pass))
    stream = chain.from_iterable(dataset.train.batches(batch_size, stop_sample=limit) for _ in range(passes))
    return [newest_elements(batch, lengths) for batch in islice(stream, config.training.iterations)]


def recommended_settings(advice: Advice) -> dict[str, dict[str, Any]]:
    """Return the settings of the recommended choice, by section."""
    choice = advice.best.choice
    return {
        "roles": {"servers": choice.num_servers},
        "training": {"batch_size": choice.batch_size},
        "lookahead": {"window": choice.window, "prefetch_depth": choice.prefetch_depth},
        "cache": {"rows": recommended_rows(advice.best)},
    }


def settings_yaml(question: Question, advice: Advice) -> str:
    """Return the settings that were given, with the recommended ones in their place, as YAML."""
    settings = question.config.model_dump(mode="json", exclude_unset=True)
    for section, values in recommended_settings(advice).items():
        settings[section] = {**settings.get(section, {}), **values}
    return yaml.safe_dump(settings, sort_keys=False)


def render_line(
    question: Question, advice: Advice, config_file: Path | None = None, overrides: Sequence[str] = ()
) -> str:
    """Return the command that prints a job script with the recommended settings.

    Args:
        question: The question.
        advice: The answer.
        config_file: The file with the settings that were given; None: there is none.
        overrides: Settings that were given besides, as section.key=value.
    Raises:
        ConfigError: no script can be made of them.
    """
    choice, per_node = advice.best.choice, question.trainers_per_node
    recommended = {
        f"{section}.{key}": value
        for section, values in recommended_settings(advice).items()
        for key, value in values.items()
        if section != "roles"
    }
    given = {name: value for name, _, value in (each.partition("=") for each in overrides) if name != "roles.servers"}
    settings = [f"{name}={value}" for name, value in {**given, **recommended}.items()]
    words: dict[str, Any] = {
        "nodes": -(-choice.num_trainers // per_node),
        "trainers_per_node": per_node,
        "gpus_per_node": per_node if question.gpu else 0,
        "servers": choice.num_servers,
        "data": str(question.data),
        **({"config": str(config_file)} if config_file else {}),
    }
    describe({**words, "settings": settings})
    options = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options += [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["bagpipe", "jobs", "render", *options])


def _check_grid(choices: Sequence[object]) -> None:
    if not choices:
        raise ConfigError(
            "the grid is empty: a prefetch depth must not be larger than the window, nor the number of trainers larger "
            "than the batch size; raise --windows or --batch-sizes, or lower --prefetch-depths or --trainers"
        )
    if len(choices) > MAX_CHOICES:
        raise ConfigError(f"the grid has {len(choices):,} choices; give fewer values, for {MAX_CHOICES} at most")


def _open(data: Path, config: Config) -> Dataset:
    dataset = open_dataset(data)
    require_labels(dataset, "bagpipe plan")
    schema = dataset.schema
    if schema.dynamic_tables:
        raise DatasetError(
            f"{data}: table {next(iter(schema.dynamic_tables))} is dynamic, so its ids get their rows while a model is "
            "trained; `bagpipe plan` needs fixed rows: import the log without `dynamic`"
        )
    if config.model.factory is None and (fault := fault_of_model(config, schema)):
        raise ConfigError(fault)
    return dataset


def _job(question: Question, dataset: Dataset, progress: Progress) -> Job:
    """Return what all choices have in common. Builds the model, and measures computing if nothing else says it."""
    config, schema = question.config, dataset.schema
    progress("building the model", 0, 0)
    model = build_trained_model(config, schema, None, 0, CpuDevice())
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    batch = next(dataset.train.batches(min(4096, dataset.train.num_samples)))
    trainers, largest = min(question.trainers), max(question.batch_sizes)
    sized = config.model_copy(update={"training": config.training.model_copy(update={"batch_size": largest})})
    sizes = Sizes(
        num_keys=sum(schema.num_embeddings),
        ids_per_sample=batch.num_ids / batch.num_samples,
        num_dense=schema.num_dense,
        row_bytes=4 * row_width(config),
        trainer_need=need_of(sized, schema, model, trainers).total,
    )
    return Job(
        compute=_compute(question, dataset, num_parameters, progress),
        dense_bytes=4.0 * num_parameters,
        wire_bytes=(4 if config.training.wire_dtype == "float32" else 2) * config.model.row_dim,
        is_overlapped=config.lookahead.delayed_synchronisation,
        oracle_threads=config.oracle.threads,
        network=question.network,
        echoes_gets=question.echoes_gets,
        trainers_per_node=question.trainers_per_node,
        sizes=sizes,
    )


def _compute(question: Question, dataset: Dataset, num_parameters: int, progress: Progress) -> ComputeTime:
    if question.compute is not None:
        return ComputeTime(0.0, question.compute, f"--compute {question.compute:g} s per sample")
    config = question.config
    if question.gpu is not None:
        row_floats = len(vectors_of(config, dataset.schema)) * config.model.row_dim
        return estimate(question.gpu, num_parameters, row_floats)
    progress("measuring how long a trainer computes here", 0, 0)
    limit = dataset.train.num_samples
    fewest = min(limit, max(1, min(question.batch_sizes) // max(question.trainers)))
    most = min(limit, max(1, max(question.batch_sizes) // min(question.trainers)))
    first = measure(config, question.data, fewest)
    return first if most == fewest else through(first, fewest, measure(config, question.data, most), most)


def _notes(batches: dict[int, list[Batch]]) -> list[str]:
    return [
        f"batches of {size:,} samples are only {len(found)}; the steady part of a longer job may move fewer rows"
        for size, found in batches.items()
        if len(found) < MIN_ITERATIONS
    ]
