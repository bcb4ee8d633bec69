from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.sizing.compute_time import GPUS, ComputeTime, estimate, measure, measured_settings, through


def test_time_of_samples() -> None:
    assert ComputeTime(1.0, 0.5, "").of(4) == 3.0


def test_estimate() -> None:
    found = estimate("H100", 10**6, 1000)
    arithmetic, memory = 3 * 2 * 10**6 / 67e12, 3 * 2 * 4 * 1000 / 3.35e12
    assert found.seconds_per_sample == pytest.approx((arithmetic + memory) / 0.3)
    assert "estimate for h100 at 30%" in found.source
    with pytest.raises(ConfigError, match=r"--gpu is 'abacus'; known are v100, .*; for another one, give --compute"):
        estimate("abacus", 1, 1)
    assert all(gpu.flops > gpu.bytes_per_second for gpu in GPUS.values())


def test_a_line_through_two_measurements() -> None:
    line = through(ComputeTime(0.0, 0.3, "a"), 10, ComputeTime(0.0, 0.2, "b"), 20)  # 3 s and 4 s
    assert (line.seconds, line.seconds_per_sample) == pytest.approx((2.0, 0.1))
    assert line.source == "a; b"
    noisy = through(ComputeTime(0.0, 0.3, "a"), 10, ComputeTime(0.0, 0.1, "b"), 20)  # 3 s and 2 s
    assert (noisy.seconds, noisy.seconds_per_sample) == (2.0, 0.0)
    steep = through(ComputeTime(0.0, 0.1, "a"), 10, ComputeTime(0.0, 0.5, "b"), 20)  # 1 s and 10 s
    assert (steep.seconds, steep.seconds_per_sample) == (0.0, 0.5)
    assert through(line, 20, line, 20) == line


def test_measured_settings_train_a_little_and_evaluate_nothing() -> None:
    config = load_config(None, ["roles.servers=5", "training.blocks=4", "training.threads=1", "cache.rows=7"])
    found = measured_settings(config, 64)
    assert (found.training.batch_size, found.roles.servers, found.cache.rows) == (64, 1, None)
    assert (found.training.blocks, found.evaluation.enabled, found.checkpoint.enabled) == (None, False, False)


@pytest.mark.parametrize(
    ("devices", "threads", "seconds"), [(["cpu"], 1, 0.02), (["cpu"], 2, 0.03), (["GPU 0"], 1, 0.03)]
)
def test_the_time_of_one_core_is_that_of_its_work(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], threads: int, seconds: float
) -> None:
    summary = {
        "devices": devices,
        "threads_per_trainer": threads,
        "steady_milliseconds": 30.0,
        "working_milliseconds": {"main": 20.0},
    }

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        directory = Path(command[command.index("--run-dir") + 1])
        directory.mkdir()
        (directory / "summary.json").write_text(json.dumps(summary))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    found = measure(load_config(None, []), Path("clicks"), 10)
    assert found.of(10) == pytest.approx(seconds)
    assert "ms for 10 samples" in found.source


def test_a_job_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2, "", "one\nbagpipe: error: no such model\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConfigError, match=r"give --compute or --gpu\. The job says: bagpipe: error: no such model"):
        measure(load_config(None, []), Path("clicks"), 10)
