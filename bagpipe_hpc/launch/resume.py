"""Going on from a checkpoint: which one, and whether it fits the job."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, saved_checkpoints
from bagpipe_hpc.checkpoint.file_names import MANIFEST
from bagpipe_hpc.checkpoint.generation import claim_generation
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.checkpoint.manifest import require_same_model, require_same_vocabulary
from bagpipe_hpc.checkpoint.model_entry import model_entry
from bagpipe_hpc.checkpoint.verify import Verifier, newest_good
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.launch.run_settings import AUTO, is_word
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO
from bagpipe_hpc.topology import Topology


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
        LOGGER.warning("%s is passed over: %s", bad.path, bad.fault)
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


def check_fit(checkpoint: Checkpoint, config: Config, dataset: Dataset) -> DataPosition:
    """Hold a job against the checkpoint it is to go on from; returns where it goes on.

    Raises:
        CheckpointError: names every field that differs, or says that the data set has another vocabulary.
    """
    manifest = checkpoint.manifest
    wanted = model_entry(config, dataset)
    require_same_model(manifest.model, wanted)
    require_same_vocabulary(manifest.model, wanted, dataset.path)
    return DataPosition(manifest.iteration, manifest.position.epoch, manifest.position.sample)


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
