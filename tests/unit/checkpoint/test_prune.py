"""Which checkpoints are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, saved_checkpoints
from bagpipe_hpc.checkpoint.file_names import checkpoint_name, iteration_of
from bagpipe_hpc.checkpoint.pointer import write_pointer
from bagpipe_hpc.checkpoint.prune import names_to_keep, prune
from bagpipe_hpc.errors import CheckpointError
from tests.unit.checkpoint.job import Job


@given(
    iterations=st.lists(st.integers(0, 60), unique=True, max_size=12),
    is_increment=st.lists(st.booleans(), min_size=12, max_size=12),
    keep_last=st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 20),
)
def test_exactly_what_is_wanted_and_what_it_builds_on_is_kept(
    iterations: list[int], is_increment: list[bool], keep_last: int, keep_every: int | None
) -> None:
    names = [checkpoint_name(iteration) for iteration in sorted(iterations)]
    parents = {name: names[index - 1] if index and is_increment[index] else None for index, name in enumerate(names)}
    kept = names_to_keep(names[::-1], parents, keep_last, keep_every)

    def is_wanted(name: str) -> bool:
        return name in names[-keep_last:] or (keep_every is not None and (iteration_of(name) or 0) % keep_every == 0)

    def is_needed(index: int) -> bool:
        return is_wanted(names[index]) or (
            index + 1 < len(names) and parents[names[index + 1]] == names[index] and is_needed(index + 1)
        )

    assert kept == {name for index, name in enumerate(names) if is_needed(index)}


@pytest.mark.parametrize(("keep_last", "keep_every"), [(0, None), (-1, None), (1, 0)])
def test_settings_below_one_are_refused(keep_last: int, keep_every: int | None) -> None:
    with pytest.raises(CheckpointError, match="both must be at least 1"):
        names_to_keep([], {}, keep_last, keep_every)


def test_pruned_directories_stay_loadable(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for number in range(7):
        job.train()
        job.save(increment=number % 3 != 0)
    (tmp_path / "iteration-000000000099").mkdir()  # not a checkpoint: left alone
    removed = prune(tmp_path, keep_last=2, keep_every=None)
    assert [iteration_of(path.name) for path in removed] == [3, 2, 1]
    assert [iteration_of(path.name) for path in saved_checkpoints(tmp_path)] == [4, 5, 6, 7, 99]
    assert Checkpoint.open(tmp_path).digest() == job.digest()
    Checkpoint.open(tmp_path / checkpoint_name(6))


def test_the_best_and_what_is_pinned_are_kept_with_what_they_build_on(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for number in range(9):
        job.train()
        job.save(increment=number % 3 != 0)
    write_pointer(tmp_path / "best", checkpoint_name(2))
    removed = prune(tmp_path, keep_last=1, is_pinned=lambda iteration: iteration == 4)
    assert [iteration_of(path.name) for path in removed] == [6, 5, 3]
    assert Checkpoint.open(tmp_path / "best").path == tmp_path / checkpoint_name(2)
    (tmp_path / "best").write_text("nothing")
    with pytest.raises(CheckpointError, match="best is damaged: its checksum does not match the name"):
        prune(tmp_path, keep_last=1)
