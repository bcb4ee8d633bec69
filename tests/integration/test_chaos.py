"""A short chaos; the long one is `python -m tests.integration.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.chaos import cause_chaos


@pytest.mark.timeout(900)
def test_a_job_killed_twenty_times_learns_the_same(small_dataset: Path, tmp_path: Path) -> None:
    story = cause_chaos(small_dataset, tmp_path, num_kills=20, seed=1)
    print(story)
    assert len(story.kills) == 20
    assert story.digest == story.expected
