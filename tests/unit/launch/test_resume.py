"""Which checkpoint a job goes on from, and whether the two fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.model_entry import model_entry
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.launch.resume import check_fit, open_checkpoints, shown_trainers
from bagpipe_hpc.launch.run_settings import is_word
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.topology import Topology
from tests.unit.checkpoint.job import Job

CONFIG = load_config(None, ["checkpoint.enabled=false"])
SCHEMA = Schema(dense=("d",), tables=(TableSchema(name="t", num_embeddings=5),))
PATH = Path("clicks")
DATASET = Dataset(PATH, SCHEMA, Split("train", PATH, SCHEMA, ()), Split("validation", PATH, SCHEMA, ()), {})


def checkpoint_of(dataset: Dataset) -> Any:
    """What `check_fit` reads of a checkpoint that was trained on a data set."""
    position = SimpleNamespace(epoch=1, sample=64)
    return SimpleNamespace(manifest=SimpleNamespace(model=model_entry(CONFIG, dataset), iteration=7, position=position))


@pytest.mark.parametrize(("saved", "given"), [(None, None), ("a" * 64, "a" * 64), ("a" * 64, None), (None, "a" * 64)])
def test_a_vocabulary_that_may_be_the_same_goes_on(saved: str | None, given: str | None) -> None:
    checkpoint = checkpoint_of(replace(DATASET, vocabulary_sha256=saved))
    assert check_fit(checkpoint, CONFIG, replace(DATASET, vocabulary_sha256=given)) == DataPosition(7, 1, 64)


def test_tables_of_the_same_sizes_with_other_values_are_refused() -> None:
    checkpoint = checkpoint_of(replace(DATASET, vocabulary_sha256="a" * 64))
    with pytest.raises(CheckpointError, match=r"^clicks: has another vocabulary .*`bagpipe import --vocabulary DIR`"):
        check_fit(checkpoint, CONFIG, replace(DATASET, vocabulary_sha256="b" * 64))


def test_ids_of_another_type_are_refused() -> None:
    def dataset_of(id_type: str) -> Dataset:
        table = {"name": "t", "num_embeddings": 5, "dynamic": {"capacity": 4}, "id_type": id_type}
        return replace(DATASET, schema=Schema.model_validate({"tables": [table]}))

    checkpoint = checkpoint_of(dataset_of("text"))
    assert check_fit(checkpoint, CONFIG, dataset_of("text")) == DataPosition(7, 1, 64)
    with pytest.raises(CheckpointError, match=r"^clicks: ids of table t are of type integer, but of type text in"):
        check_fit(checkpoint, CONFIG, dataset_of("integer"))


def test_latest_is_that_of_the_run_directory(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    root.mkdir()
    job = Job(root)
    job.train(3)
    path = job.save()
    _, _, found = open_checkpoints(CONFIG, tmp_path, "latest")
    assert found is not None
    assert found.path == path
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint 'best' in .*checkpoints; resume from `auto`, or"
    ):
        open_checkpoints(CONFIG, tmp_path, "best")


def test_a_path_of_that_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_word("best")
    (tmp_path / "best").mkdir()
    assert not is_word("best")
    assert is_word("auto")


def test_another_number_of_trainers_is_shown(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(3)
    checkpoint = Checkpoint.open(job.save(trainers=2))
    (line,) = shown_trainers(checkpoint, CONFIG, Topology(3, 1))
    assert "trainers: 2 -> 1: " in line
    assert "the model will not be equal to the bit to that of a job that keeps 2 trainer(s)" in line
    assert shown_trainers(checkpoint, CONFIG, Topology(5, 2)) == []


@pytest.mark.parametrize(
    ("saved", "given", "ranks", "words"),
    [
        (None, 2, 5, "training.blocks was null: sums have another order from here on"),
        (4, 2, 3, "training.blocks was 4: sums have another order from here on"),
        (2, 2, 3, "trainers: 2 -> 1; the model stays equal to the bit, because training.blocks is 2"),
        (2, 2, 5, None),
        (2, 2, 3, "training.threads was 2: sums may have another order from here on"),
    ],
)
def test_what_becomes_of_equal_bits_is_shown(saved: int | None, given: int, ranks: int, words: str | None) -> None:
    threads = 2 if words and "threads" in words else 1
    settings = {"training": {"blocks": saved, "threads": threads}}
    manifest = SimpleNamespace(config=settings, topology=SimpleNamespace(trainers=2))
    checkpoint: Any = SimpleNamespace(manifest=manifest)
    config = load_config(None, [f"training.blocks={given}", "training.threads=1"])
    lines = shown_trainers(checkpoint, config, Topology(ranks, ranks // 2))
    assert len(lines) == (words is not None)
    assert words is None or words in lines[0]


@pytest.mark.parametrize(
    ("saved", "given", "is_shown"),
    [
        ("eager", "graph", False), (None, "eager", False), ("compiled", "compiled", False), (None, "compiled", True),
        ("compiled", "eager", True),
    ],
)  # fmt: skip
def test_another_way_to_run_the_model_is_shown(saved: str | None, given: str, is_shown: bool) -> None:
    settings = {"training": {} if saved is None else {"execution": saved}}
    manifest = SimpleNamespace(config=settings, topology=SimpleNamespace(trainers=1))
    checkpoint: Any = SimpleNamespace(manifest=manifest)
    config = load_config(None, [f"training.execution={given}"])
    lines = shown_trainers(checkpoint, config, Topology(3, 1))
    assert len(lines) == is_shown
    assert not is_shown or f"training.execution was {saved or 'eager'}: " in lines[0]
