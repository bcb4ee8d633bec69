"""The process alone, which answers lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bagpipe_hpc.bench.gpu.case import GpuCase
from bagpipe_hpc.bench.gpu.fbgemm import why_absent
from bagpipe_hpc.bench.gpu.samples import bench_dataset
from bagpipe_hpc.data.dataset import no_progress

WORKER = [sys.executable, "-m", "bagpipe_hpc.bench.gpu.worker", "0"]


def answers(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(WORKER, input=lines, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_job_without_a_launcher_and_what_cannot_be_measured(tmp_path: Path) -> None:
    case = GpuCase(batch_sizes=(8,), dims=(4,), trainers=(1,), scale=1e-5, window=4, iterations=2, device="cpu")
    dataset = bench_dataset(tmp_path / "data", case, no_progress)
    request = {
        "case": case.to_json(), "cell": [8, 4], "data": str(dataset.path), "run": str(tmp_path / "run"),
        "cache_rows": 1000,
    }  # fmt: skip
    says = ("hello", "job", "fbgemm", "resident")
    hello, job, *others = answers(*({**request, "say": say, "device": "cpu"} for say in says))
    assert (hello["on_gpu"], hello["kernels"]) == (False, "compiled loops")
    assert job["devices"] == ["cpu"]
    assert 0 < job["device_model"] <= job["device_iteration"]
    if why_absent():
        assert others.pop(0) == {"skipped": why_absent()}
    assert others[-1]["milliseconds"] > 0


def test_an_error_is_the_last_answer() -> None:
    (answer,) = answers({"say": "resident"}, {"say": "hello"})
    assert answer == {"error": "KeyError: 'cell'"}
