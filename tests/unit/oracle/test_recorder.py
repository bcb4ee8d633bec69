"""figures.jsonl: what ranks count, over all starts of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.oracle.recorder import Recorder
from bagpipe_hpc.protocol.messages import RankFigures
from bagpipe_hpc.topology import Topology
from tests.small_disk import small_disk

TOPOLOGY = Topology(4, 1)


def recorder(path: Path, *, keeps_earlier: bool = False) -> Recorder:
    return Recorder(path, TOPOLOGY, keeps_earlier=keeps_earlier, clock=lambda: 12.3456)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "figures.jsonl").read_text().splitlines()]


def test_lines_of_a_start(tmp_path: Path) -> None:
    with recorder(tmp_path) as file:
        file.start(0, end=40)
        file.take(RankFigures(2, {"trainer": 0, "iteration": 20, "seconds": 0.12345678}))
        file.take(RankFigures(1, {"server": 0}))
        file.trained(19, 19, [1, 2], 100)
        file.trained(20, 20, [3, 4], 200)
        file.committed(20, {"seconds": 0.5})
        file.end(40, "done")
    found = lines(tmp_path)
    assert [line["kind"] for line in found] == ["start", "trainer", "server", "oracle", "checkpoint", "end"]
    assert found[0] == {"kind": "start", "time": 12.346, "iteration": 0, "trainers": 2, "servers": 1, "end": 40}
    assert found[1]["seconds"] == 0.123457
    assert (found[3]["cached_rows"], found[3]["bytes_plans"]) == ([3, 4], 200)


def test_a_job_that_goes_on_keeps_whole_lines_of_earlier_starts(tmp_path: Path) -> None:
    (tmp_path / "figures.jsonl").write_text('{"kind": "start"}\n{"kind": "tr')
    with recorder(tmp_path, keeps_earlier=True) as file:
        file.start(20)
    assert [line["kind"] for line in lines(tmp_path)] == ["start", "start"]
    with recorder(tmp_path) as file:
        file.start(0)
    assert len(lines(tmp_path)) == 1


def test_all_figures_are_here_when_each_rank_has_sent_its_last(tmp_path: Path) -> None:
    with recorder(tmp_path) as file:
        for expected in range(2 * 2 + 1 * 3):  # two trainers after 20 iterations, a server after 40 plans
            assert not file.has_all(25, 45), expected
            file.take(RankFigures(1, {"server": 0}))
        assert file.has_all(25, 45)


def test_a_full_disk_ends_the_lines_and_not_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 4 * 4096) as disk, recorder(disk.path) as file:
        for _ in range(200):
            file.take(RankFigures(1, {"server": 0, "host": "n" * 200}))
    assert capsys.readouterr().out.count("figures.jsonl cannot be written: No space left on device") == 1
