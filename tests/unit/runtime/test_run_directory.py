"""Files of a training are not replaced by an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.errors import BagpipeError, RunDirectoryError
from bagpipe_hpc.runtime.run_directory import refuse_training, write_at_once, writing_to


def test_an_evaluation_may_use_a_new_directory_and_that_of_an_evaluation(tmp_path: Path) -> None:
    refuse_training(tmp_path / "new")
    (tmp_path / "metrics.jsonl").write_text("")  # as evaluations leave it
    (tmp_path / "summary.json").write_text("{}")
    refuse_training(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/iteration-000000000020/manifest.json"])
def test_the_directory_of_a_training_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"is the run directory of a training: .*; choose another --run-dir"):
        refuse_training(tmp_path)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_at_once(tmp_path / "DONE", content)
        assert (tmp_path / "DONE").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_place_of_a_directory_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, fault in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "run", "Not a directory")):
        with (
            pytest.raises(
                BagpipeError, match=rf"cannot be written: {fault}; .*file is a file, not a directory; choose"
            ),
            writing_to(path),
        ):
            path.mkdir(parents=True, exist_ok=True)
