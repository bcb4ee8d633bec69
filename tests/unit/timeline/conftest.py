"""The timeline of a small synthetic trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.timeline.merge import merge_traces
from bagpipe_hpc.timeline.tracks import Timeline, read_timeline
from tests.unit.timeline.synthetic import write_ranks


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    write_ranks(tmp_path)
    return read_timeline(merge_traces(tmp_path))
