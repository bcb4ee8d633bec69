"""Going on from a checkpoint: which one, whether it fits the job, and what the oracle takes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, saved_checkpoints
from bagpipe_hpc.checkpoint.file_names import MANIFEST
from bagpipe_hpc.checkpoint.generation import claim_generation
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.checkpoint.manifest import ModelEntry, require_same_model, require_same_vocabulary
from bagpipe_hpc.checkpoint.verify import Verifier, newest_good
from bagpipe_hpc.config import Config, ModelConfig, TableConfig
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.schema import TableSchema
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.launch.run_settings import AUTO, is_word
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.plan_stream import Boundary
from bagpipe_hpc.oracle.progress import History
from bagpipe_hpc.oracle.saved_state import evaluations_in, history_in, placed_in
from bagpipe_hpc.protocol.plan import Residents, ends
from bagpipe_hpc.row_layout import state_columns
from bagpipe_hpc.runtime.data_position import Position
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.topology import Topology

OWN_MODEL = "own"


def open_checkpoints(config: Config, run_path: Path, resume: str | None) -> tuple[Path, int, Checkpoint | None]:
    """Become the newest incarnation of the job, and find the checkpoint it goes on from.

    Args:
        resume: "auto": the newest good one, or none; "latest" or "best": the one so named; a path: that one;
            None: the job starts afresh.
    Returns:
        Directory of checkpoints, generation (0 where the job writes none), checkpoint.
    Raises:
        CheckpointError: the checkpoint named is missing or damaged; or a fresh start finds checkpoints of another run.
    """
    root = Path(config.checkpoint.directory or run_path / "checkpoints")
    if resume is None:
        _refuse_used(root)
    generation = claim_generation(root) if config.checkpoint.enabled else 0
    if resume is None:
        return root, generation, None
    if resume != AUTO:
        return root, generation, Verifier().verify(_named(root, resume) if is_word(resume) else Path(resume))
    checkpoint, rejected = newest_good(root)
    for bad in rejected:
        print(f"bagpipe: note: {bad.path} is passed over: {bad.fault}", flush=True)
    return root, generation, checkpoint


def _named(root: Path, word: str) -> Path:
    if not (root / word).is_file():
        raise CheckpointError(
            f"there is no checkpoint {word!r} in {root}; resume from `auto`, or from the path of a checkpoint"
        )
    return root / word


def _refuse_used(root: Path) -> None:
    if root.exists() and (found := saved_checkpoints(root)):
        raise CheckpointError(
            f"{root} has checkpoints of an earlier run, up to {found[-1].name}: go on with {RESUME_AUTO}, "
            "choose another --run-dir or checkpoint.directory, or delete them"
        )


def _require_same_order(checkpoint: Checkpoint, config: Config) -> None:
    """In the middle of an epoch, samples must come in the order they did."""
    training = checkpoint.manifest.config.get("training")
    saved = training.get("shuffle_block") if isinstance(training, dict) else None
    if saved != config.training.shuffle_block:
        raise CheckpointError(
            f"{checkpoint.path} stands within an epoch: training.shuffle_block is {saved} in the checkpoint, "
            f"{config.training.shuffle_block} in the job, so samples would be left out; set it to {saved}"
        )


def check_fit(checkpoint: Checkpoint, config: Config, dataset: Dataset) -> Position:
    """Hold a job against the checkpoint it is to go on from; returns where it goes on.

    Raises:
        CheckpointError: names every field that differs, or says that the data set has another vocabulary.
    """
    manifest = checkpoint.manifest
    wanted = model_entry(config, dataset)
    require_same_model(manifest.model, wanted)
    require_same_vocabulary(manifest.model, wanted, dataset.path)
    position = Position(manifest.iteration, manifest.position.epoch, manifest.position.sample)
    return position


def check_position(checkpoint: Checkpoint, config: Config, dataset: Dataset) -> None:
    """See that the job can train on from where the checkpoint stands.

    Raises:
        CheckpointError: there is no such sample, or samples come in another order now.
    """
    position = checkpoint.manifest.position
    training = checkpoint.manifest.config.get("training")
    epochs = training.get("epochs") if isinstance(training, dict) else None
    if isinstance(epochs, int) and position.epoch > epochs:
        raise damaged(checkpoint.path / MANIFEST, f"it stands in epoch {position.epoch} of a job of {epochs}")
    if position.sample > 0:
        _require_same_order(checkpoint, config)
    if position.sample > dataset.train.num_samples:
        raise CheckpointError(
            f"{checkpoint.path} goes on at training sample {position.sample:,}, but {dataset.path} has "
            f"{dataset.train.num_samples:,}; continue with the data set of the checkpoint"
        )


def keeps_caches(checkpoint: Checkpoint, topology: Topology) -> bool:
    """Whether every trainer finds the cache it had."""
    return checkpoint.manifest.topology.trainers == topology.num_trainers


def shown_trainers(checkpoint: Checkpoint, topology: Topology) -> list[str]:
    """What to tell a user whose job goes on with another number of trainers."""
    if keeps_caches(checkpoint, topology):
        return []
    before, now = checkpoint.manifest.topology.trainers, topology.num_trainers
    fewer_or_more = "fewer" if now < before else "more"
    return [
        f"  trainers: {before} -> {now}: trainers sum up in another order, so from here on the model is that "
        f"of {fewer_or_more} trainers, not to the bit that of a job that keeps {before}"
    ]


def resumed_boundary(spec: JobSpec) -> Boundary | None:
    """Caches and placement as they were saved; None where the job starts with empty caches."""
    if spec.checkpoints is None or not spec.checkpoints.keeps_caches:
        return None
    checkpoint = spec.checkpoints.open_resumed()
    assert checkpoint is not None
    return Boundary(spec.start.iteration, _residents(checkpoint), placed_in(checkpoint))


def resumed_history(spec: JobSpec) -> History:
    """Metrics of the iterations before the start; none for an evaluation, whose directory is not that of a training."""
    checkpoint = spec.checkpoints.open_resumed() if spec.checkpoints and not spec.evaluates_only else None
    return history_in(checkpoint) if checkpoint is not None else History()


def resumed_evaluations(spec: JobSpec) -> list[Evaluation]:
    """Evaluations before the start."""
    checkpoint = spec.checkpoints.open_resumed() if spec.checkpoints else None
    return evaluations_in(checkpoint) if checkpoint is not None else []


def require_usable(checkpoint: Checkpoint) -> None:
    """See that what the oracle goes on with is what a job writes, before anybody starts.

    Raises:
        CheckpointError: names the file at fault.
    """
    history_in(checkpoint)
    placed_in(checkpoint)
    evaluations_in(checkpoint)


def model_entry(config: Config, dataset: Dataset) -> ModelEntry:
    """What a job that goes on from a checkpoint must agree on with it."""
    model, schema = config.model, dataset.schema
    return ModelEntry.model_validate(
        {
            **_architecture(model),
            "num_dense": schema.num_dense,
            "tables": [
                {
                    "name": table.name,
                    "num_embeddings": table.num_embeddings,
                    "embedding_dim": config.embedding_dim_of(table.name)
                    if config.unused_columns_of(table.name)
                    else None,
                }
                for table in schema.own_tables
            ],
            "features": [] if schema.is_plain else [_feature(config, table) for table in schema.tables],
            "embedding_dim": model.embedding_columns,
            "first_order_columns": model.row_dim - model.embedding_columns,
            "row_optimizer": config.row_optimizer.name,
            "row_optimizer_settings": config.row_optimizer.essentials,
            "row_state": [{"name": name, "columns": columns} for name, columns in state_columns(config).items()],
            "dense_optimizer": config.dense_optimizer.name.lower(),
            "dense_optimizer_settings": config.dense_optimizer.arguments,
            "seed": config.training.seed,
            "vocabulary_sha256": dataset.vocabulary_sha256,
        }
    )


def _feature(config: Config, table: TableSchema) -> dict[str, Any]:
    pooling = config.tables.get(table.name, TableConfig()).pooling if table.ragged else None
    return {
        "name": table.name,
        "table": table.shares or table.name,
        "pooling": pooling,
        "weighted": table.weighted,
    }


def _architecture(model: ModelConfig) -> dict[str, Any]:
    """Of a model of the user's own: that it is one. Its parameters' names and shapes are compared when it is there."""
    if model.factory is not None:
        return {"name": OWN_MODEL, "settings": model.arguments}
    settings = model.model_dump(mode="json", exclude={"name", "embedding_dim", "factory", "arguments"})
    return {"name": model.name, "settings": settings}


def _residents(checkpoint: Checkpoint) -> Residents:
    caches = [list(checkpoint.cached_slots(trainer)) for trainer in range(checkpoint.manifest.topology.trainers)]
    pieces = [piece for cache in caches for piece in cache]
    return Residents(
        np.concatenate([np.empty(0, np.int64), *(piece.keys for piece in pieces)]),
        np.concatenate([np.empty(0, np.int32), *(piece.slots for piece in pieces)]),
        np.concatenate([np.empty(0, np.bool_), *(piece.dirty for piece in pieces)]),
        ends(np.array([sum(len(piece.keys) for piece in cache) for cache in caches])),
    )
