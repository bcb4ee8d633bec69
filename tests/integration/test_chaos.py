"""A short chaos; the long one is `python -m tests.integration.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.chaos import cause_chaos


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_killed_twenty_times_learns_the_same(small_dataset: Path, tmp_path: Path) -> None:
    story = cause_chaos(small_dataset, tmp_path, num_kills=20, seed=1)
    print(story)
    assert len(story.kills) == 20
    assert story.digest == story.expected


@pytest.mark.timeout(900)
def test_a_job_that_has_other_trainers_and_servers_in_every_life_learns_the_same(
    small_dataset: Path, tmp_path: Path
) -> None:
    story = cause_chaos(small_dataset, tmp_path, num_kills=8, seed=2, resize=True)
    print(story)
    assert len(story.kills) == 8
    assert story.digest == story.expected
