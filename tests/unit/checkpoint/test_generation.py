"""A later incarnation fences the earlier ones."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.dense_file import DenseState
from bagpipe_hpc.checkpoint.generation import claim_generation, newest_generation, require_newest
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint
from bagpipe_hpc.checkpoint.verify import newest_good
from bagpipe_hpc.errors import CheckpointError, FencedError
from tests.unit.checkpoint.job import DENSE, MODEL, Job, manifest_of


def test_every_start_gets_the_next_generation(tmp_path: Path) -> None:
    assert [claim_generation(tmp_path / "new") for _ in range(3)] == [1, 2, 3]
    assert newest_generation(tmp_path / "new") == 3


def test_concurrent_starts_get_different_generations(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_generation(tmp_path), range(24)))
    assert sorted(claimed) == sorted(set(claimed))
    assert newest_generation(tmp_path) == max(claimed)


def test_an_old_incarnation_refuses_at_every_step(tmp_path: Path) -> None:
    old = Job(tmp_path)
    old.train()
    partial = PartialCheckpoint(tmp_path, old.generation, 10, MODEL.row_width)
    partial.create()
    files = (partial.write_server(0, []), partial.write_trainer(0, []), partial.write_dense(DENSE))
    claim_generation(tmp_path)
    assert not partial.path.exists()
    steps: list[Callable[[], object]] = [
        partial.create,
        lambda: partial.write_server(0, []),
        lambda: partial.write_trainer(0, []),
        lambda: partial.write_dense(DenseState({}, None)),
        lambda: partial.write_extra("x", b""),
        lambda: partial.commit(manifest_of(files)),
    ]
    for step in steps:
        with pytest.raises(FencedError, match="belongs to generation 2 of this job and this is generation 1"):
            step()
    assert newest_good(tmp_path) == (None, [])


def test_a_fence_that_falls_between_check_and_rename_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = PartialCheckpoint(tmp_path, claim_generation(tmp_path), 10, MODEL.row_width)
    partial.create()
    files = (partial.write_server(0, []), partial.write_trainer(0, []), partial.write_dense(DENSE))
    later = Job(tmp_path)
    later.iteration = 9
    later.train()
    committed = later.save()
    check_after_errors_only(monkeypatch)
    monkeypatch.setattr("bagpipe_hpc.checkpoint.partial.write_durably", lambda path, content: None)
    monkeypatch.setattr("bagpipe_hpc.checkpoint.partial.sync_directory", lambda path: None)
    with pytest.raises(FencedError, match="belongs to generation 2 of this job") as error:
        partial.commit(manifest_of(files))
    assert "iteration-000000000010 cannot be written: No such file" in str(error.value.__context__)
    assert Checkpoint.open(committed).digest() == later.digest()


def check_after_errors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before a write comes too early to see the fence."""

    def check(root: Path, generation: int) -> None:
        if sys.exc_info()[1] is not None:
            require_newest(root, generation)

    monkeypatch.setattr("bagpipe_hpc.checkpoint.generation.require_newest", check)


def test_a_fence_that_falls_while_files_are_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = PartialCheckpoint(tmp_path, claim_generation(tmp_path), 10, MODEL.row_width)
    partial.create()
    claim_generation(tmp_path)
    check_after_errors_only(monkeypatch)
    steps: list[Callable[[], object]] = [
        lambda: partial.write_server(0, []),
        lambda: partial.write_trainer(0, []),
        lambda: partial.write_dense(DENSE),
        lambda: partial.write_oracle(None),
        lambda: partial.write_extra("x", b""),
    ]
    for step in steps:
        with pytest.raises(FencedError, match="belongs to generation 2 of this job and this is generation 1"):
            step()


def test_a_directory_that_is_deleted_is_called_deleted(tmp_path: Path) -> None:
    partial = PartialCheckpoint(tmp_path / "root", claim_generation(tmp_path / "root"), 10, MODEL.row_width)
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(CheckpointError, match="root was deleted while this job ran"):
        partial.create()


def test_the_latest_generation_is_newer_whatever_its_iteration(tmp_path: Path) -> None:
    first = Job(tmp_path)
    first.train(5)
    first.save()
    second = Job(tmp_path)  # went back to the beginning
    second.train(2)
    path = second.save()
    found = newest_good(tmp_path)[0]
    assert found is not None
    assert found.path == path
    require_newest(tmp_path, second.generation)


def test_a_manifest_of_other_files_is_refused(tmp_path: Path) -> None:
    partial = PartialCheckpoint(tmp_path, claim_generation(tmp_path), 11, MODEL.row_width)
    partial.create()
    files = (partial.write_server(0, []), partial.write_trainer(0, []), partial.write_dense(DENSE))
    with pytest.raises(CheckpointError, match=r"\(1, 10, 4\), the files have \(1, 11, 4\)"):
        partial.commit(manifest_of(files))


def test_replacing_a_checkpoint_of_an_abandoned_run(tmp_path: Path) -> None:
    first = Job(tmp_path, seed=1)
    first.train(2)
    first.save()
    second = Job(tmp_path, seed=2)
    second.train(2)
    assert Checkpoint.open(second.save()).digest() == second.digest()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".generation-000000000002",
        "iteration-000000000002",
        "latest",
    ]


def test_keys_must_ascend(tmp_path: Path) -> None:
    partial = PartialCheckpoint(tmp_path, claim_generation(tmp_path), 11, MODEL.row_width)
    partial.create()
    rows = np.zeros((2, 4), np.float32)
    with pytest.raises(CheckpointError, match="keys must ascend, but those from 3 on do not"):
        partial.write_server(0, [(np.array([1, 4]), rows), (np.array([3, 5]), rows)])
