"""`bagpipe bench gpu` as a user runs it on a CPU: it starts its own ranks."""

from __future__ import annotations

import json
from pathlib import Path

from bagpipe_hpc.bench.gpu.fbgemm import why_absent
from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES
from tests.launch import run_python, run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "gpu", "--device", "cpu"]
TINY = [
    "--batch-sizes",
    "64",
    "--dims",
    "4",
    "--scale",
    "0.0001",
    "--iterations",
    "3",
    "--window",
    "4",
    "--repeats",
    "1",
]


def test_one_and_two_trainers(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "gpu.json"), "--data-dir", str(tmp_path / "data")]
    done = run_python([*BENCH, *TINY, *files], timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bagpipe_hpc, 2 trainers" in done.stdout
    assert "kernels on rows (compiled loops)" in done.stdout
    (cell,) = json.loads((tmp_path / "gpu.json").read_text())["cells"]
    assert {"resident", "trainers-1", "trainers-2", "kernels"} <= cell["turns"].keys()
    for trainers in (1, 2):
        (turn,) = cell["turns"][f"trainers-{trainers}"]
        assert turn["milliseconds"] > 0
        assert 0 < turn["device_model"] <= turn["device_iteration"]
        assert turn["devices"] == ["cpu"]
    assert tuple(cell["kernels"]) == KERNEL_NAMES
    assert cell["missing"] == ({"fbgemm": why_absent()} if why_absent() else {})


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    done = run_ranks(2, [*BENCH, *TINY, "--data-dir", str(tmp_path)], timeout=60)
    assert done.returncode == 2
    assert "bagpipe: error: `bagpipe bench gpu` was started on several ranks" in done.stderr
