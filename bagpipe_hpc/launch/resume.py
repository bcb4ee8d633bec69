"""The checkpoint that a job goes on from: the choice of it, and the checks that it fits the job."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, saved_checkpoints
from bagpipe_hpc.checkpoint.file_names import MANIFEST
from bagpipe_hpc.checkpoint.generation import claim_generation
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.checkpoint.manifest import moved_keys, require_same_model, require_same_values
from bagpipe_hpc.checkpoint.model_entry import model_entry
from bagpipe_hpc.checkpoint.verify import Verifier, newest_good
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.launch.run_settings import AUTO, is_word, shown_value
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.oracle.dynamic_tables import DynamicTablesState
from bagpipe_hpc.oracle.saved_state import setting_of_blocks, training_settings
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.topology import Topology


def open_checkpoints(config: Config, run_path: Path, resume: str | None) -> tuple[Path, int, Checkpoint | None]:
    """Claim the next generation of the job, and find the checkpoint that it goes on from.

    Args:
        config: The settings of the job.
        run_path: The run directory.
        resume: "auto": the newest good checkpoint, or none if there is none. "latest" or "best": the checkpoint of this
            name. A path: this checkpoint. None: the job starts afresh.
    Returns:
        The directory of checkpoints, the generation (0 if the job writes no checkpoints), and the checkpoint.
    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the job starts afresh and there are checkpoints of an
            earlier run.
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
        LOGGER.warning("%s is skipped: %s", bad.path, bad.fault)
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
    """Check that the samples of the epoch that goes on have the same order as before the checkpoint."""
    saved = training_settings(checkpoint).get("shuffle_block")
    if saved != config.training.shuffle_block:
        raise CheckpointError(
            f"{checkpoint.path} was written in the middle of an epoch: training.shuffle_block is {saved} in the "
            f"checkpoint, {config.training.shuffle_block} in the job, so samples would be left out; set it to {saved}"
        )


def check_fit(checkpoint: Checkpoint, config: Config, dataset: Dataset) -> DataPosition:
    """Check that a checkpoint fits the model and the data set of the job that goes on from it.

    Returns:
        The position in the training data where the job goes on.
    Raises:
        CheckpointError: it does not fit. The message names every field that differs, or says that the data set has
            another vocabulary or ids of another type.
    """
    manifest = checkpoint.manifest
    wanted = model_entry(config, dataset)
    require_same_model(manifest.model, wanted)
    require_same_values(manifest.model, wanted, dataset.path)
    return DataPosition(manifest.iteration, manifest.position.epoch, manifest.position.sample)


def check_position(checkpoint: Checkpoint, config: Config, dataset: Dataset) -> None:
    """Check that the job can go on training at the position of the checkpoint.

    Raises:
        CheckpointError: the data set has no such position, or samples have another order now.
    """
    position = checkpoint.manifest.position
    epochs = training_settings(checkpoint).get("epochs")
    if isinstance(epochs, int) and position.epoch > epochs:
        raise damaged(
            checkpoint.path / MANIFEST, f"its position is in epoch {position.epoch}, but its job has {epochs} epochs"
        )
    if position.sample > 0:
        _require_same_order(checkpoint, config)
    if position.sample > dataset.train.num_samples:
        raise CheckpointError(
            f"{checkpoint.path} goes on at training sample {position.sample:,}, but {dataset.path} has "
            f"{dataset.train.num_samples:,} training samples; go on with the data set of the checkpoint"
        )


def keeps_caches(checkpoint: Checkpoint, schema: Schema, topology: Topology) -> bool:
    """Return whether trainers restore their caches, because trainers and keys are those of the checkpoint."""
    same_keys = moved_keys(checkpoint.manifest.model, KeySpace(schema.num_embeddings)) is None
    return same_keys and checkpoint.manifest.topology.trainers == topology.num_trainers


def check_dynamic_tables(checkpoint: Checkpoint, schema: Schema, ids: DynamicTablesState | None) -> list[str]:
    """Check that dynamic tables have room for the rows of a checkpoint, and return lines about rules that change.

    Raises:
        CheckpointError: a table has more rows than it may have, or the checkpoint has no ids.
    """
    lines = []
    before = {table.name: table.dynamic for table in checkpoint.manifest.model.tables}
    for name, rules in schema.dynamic_tables.items():
        if ids is None or name not in ids.ids:
            raise CheckpointError(f"{checkpoint.path} has no ids of table {name}; use another checkpoint")
        if (used := ids.ids[name].live.num_rows) > rules.capacity:
            raise CheckpointError(
                f"{checkpoint.path} has {used:,} rows in use in table {name}, but tables.{name}.capacity is "
                f"{rules.capacity:,}; set it to {used:,} or more"
            )
        for setting, value in rules.model_dump(mode="json").items():
            saved = getattr(before.get(name), setting, None)
            if saved != value:
                lines.append(f"  tables.{name}.{setting}: {shown_value(saved)} -> {shown_value(value)}")
    return lines


def shown_trainers(checkpoint: Checkpoint, config: Config, topology: Topology) -> list[str]:
    """Return lines for the user if the job goes on with other trainers, or with other blocks (training.blocks)."""
    before, now = checkpoint.manifest.topology.trainers, topology.num_trainers
    blocks_before, blocks = setting_of_blocks(checkpoint), config.training.blocks
    if blocks != blocks_before:
        return [
            f"  training.blocks was {shown_value(blocks_before)}: sums have another order from here on, so the model "
            "will not be equal to the bit to that of a job that keeps its blocks"
        ]
    if line := _shown_execution(checkpoint, config):
        return [line]
    threads_before, threads = training_settings(checkpoint).get("threads"), config.training.threads
    if blocks is not None and threads != threads_before:
        return [
            f"  training.threads was {threads_before}: sums may have another order from here on, so the model may not "
            "be equal to the bit to that of a job that keeps its threads"
        ]
    if before == now:
        return []
    if blocks is not None:
        return [f"  trainers: {before} -> {now}; the model stays equal to the bit, because training.blocks is {blocks}"]
    return [
        f"  trainers: {before} -> {now}: sums over the trainers have another order from here on, so the model will not "
        f"be equal to the bit to that of a job that keeps {before} trainer(s); training.blocks would keep it equal"
    ]


def _shown_execution(checkpoint: Checkpoint, config: Config) -> str:
    """Return a line if the model runs in another way than before (training.execution), whose bits differ; else ""."""
    before, now = training_settings(checkpoint).get("execution", "eager"), config.training.execution
    if before == now or "compiled" not in (before, now):
        return ""
    return (
        f"  training.execution was {before}: results differ in the last bits from here on, so the model will not be "
        f"equal to the bit to that of a job that keeps {before}"
    )
