"""Which checkpoint a job goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.roles.resume import open_checkpoints, shown_trainers
from bagpipe_hpc.roles.run_settings import is_word
from bagpipe_hpc.topology import Topology
from tests.unit.checkpoint.job import Job

CONFIG = load_config(None, ["checkpoint.enabled=false"])


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


def test_another_number_of_trainers_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(3)
    checkpoint = Checkpoint.open(job.save(trainers=2))
    (line,) = shown_trainers(checkpoint, Topology(3, 1))
    assert "trainers: 2 -> 1: " in line
    assert "from here on the model is that of fewer trainers" in line
    assert shown_trainers(checkpoint, Topology(5, 2)) == []
