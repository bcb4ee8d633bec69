"""What a report shows of a traced run."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.report.traced import traced_part
from tests.unit.timeline.synthetic import write_ranks


def test_a_traced_run(tmp_path: Path) -> None:
    write_ranks(tmp_path, ranks=(0, 2, 3))
    part = traced_part(tmp_path, "run", "2:4")
    assert (part.chosen, part.drawn) == (range(2, 4), range(2, 4))
    assert part.png.startswith(b"\x89PNG")
    assert "no trace of rank 1" in part.says
    assert any(row[:3] == ("trainer main", "compute", "50.0%") for row in part.rows)
