"""How long a trainer computes: measured here with the model of a configuration, or estimated for a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.scratch import scratch_directory

MEASURED_ITERATIONS = 30
TIMEOUT_SECONDS = 900.0
EFFICIENCY = 0.3  # of peak arithmetic and of peak memory bandwidth
GPU_ITERATION_SECONDS = 2e-3  # Python and the start of kernels, whatever the batch size
PASSES = 3  # the backward pass does about twice the work of the forward pass


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU, from its data sheet.

    Args:
        flops: Floating point operations per second on float32, without tensor cores.
        bytes_per_second: Of its memory.
    """

    flops: float
    bytes_per_second: float


GPUS = {
    "v100": Gpu(15.7e12, 0.9e12),
    "a100": Gpu(19.5e12, 1.555e12),
    "h100": Gpu(67e12, 3.35e12),
    "h200": Gpu(67e12, 4.8e12),
    "mi250x": Gpu(23.9e12, 1.6e12),  # one of its two dies
    "mi300x": Gpu(81.7e12, 5.3e12),
}


@dataclass(frozen=True)
class ComputeTime:
    """How long a trainer computes.

    Args:
        seconds: Per iteration, whatever the number of samples.
        seconds_per_sample: In addition, per sample of the trainer.
        source: Where the numbers come from, in words.
    """

    seconds: float
    seconds_per_sample: float
    source: str

    def of(self, num_samples: float) -> float:
        """Return the seconds of an iteration in which the trainer has so many samples."""
        return self.seconds + self.seconds_per_sample * num_samples


def estimate(gpu: str, num_parameters: int, row_floats: int) -> ComputeTime:
    """Estimate how long a GPU computes. Fully connected layers use each parameter once per sample.

    Args:
        gpu: Its name in GPUS.
        num_parameters: Of the dense model.
        row_floats: Columns of all rows of a sample together.
    Raises:
        ConfigError: the GPU is not known.
    """
    if gpu.lower() not in GPUS:
        raise ConfigError(f"--gpu is {gpu!r}; known are {', '.join(GPUS)}; for another one, give --compute")
    peak = GPUS[gpu.lower()]
    arithmetic = PASSES * 2 * num_parameters / peak.flops
    memory = PASSES * 2 * 4 * row_floats / peak.bytes_per_second  # each pass reads and writes
    return ComputeTime(
        GPU_ITERATION_SECONDS,
        (arithmetic + memory) / EFFICIENCY,
        f"estimate for {gpu.lower()} at {EFFICIENCY:.0%} of its peaks and "
        f"{1e3 * GPU_ITERATION_SECONDS:g} ms per iteration; measure with --compute",
    )


def measure(config: Config, data: Path, num_samples: int) -> ComputeTime:
    """Train a few iterations with one trainer in one process here, and take the median iteration.

    With one thread on a CPU this is the time that the core worked for the main thread, so other processes on the same
    cores do not count. Else it is the time that has passed.

    Args:
        config: The settings of the job.
        data: Its data set.
        num_samples: Samples of an iteration of one trainer.
    Raises:
        ConfigError: the job fails; the message has its last line.
    """
    with scratch_directory("bagpipe-plan-") as directory:
        file = directory / "config.yaml"
        file.write_text(measured_settings(config, num_samples).to_yaml(), encoding="utf-8")
        run = directory / "run"
        command = [sys.executable, "-m", "bagpipe_hpc", "train", str(file), "--local"]
        command += ["--data", str(data), "--run-dir", str(run)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"computing took more than {TIMEOUT_SECONDS:g} s; give --compute or --gpu") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise ConfigError(f"computing cannot be measured here; give --compute or --gpu. The job says: {last}")
        summary = json.loads((run / "summary.json").read_text("utf-8"))
    is_one_core = summary["devices"] == ["cpu"] and summary["threads_per_trainer"] == 1
    seconds = (summary["working_milliseconds"]["main"] if is_one_core else summary["steady_milliseconds"]) / 1e3
    where = ", ".join(summary["devices"])
    return ComputeTime(
        0.0, seconds / num_samples, f"measured here on {where}: {1e3 * seconds:.1f} ms for {num_samples:,} samples"
    )


def through(first: ComputeTime, first_samples: int, second: ComputeTime, second_samples: int) -> ComputeTime:
    """Return the line through two measurements, of fewer and of more samples; neither part of it is below 0."""
    if second_samples <= first_samples:
        return first
    low, high = first.of(first_samples), second.of(second_samples)
    slope = max(0.0, (high - low) / (second_samples - first_samples))
    slope = min(slope, high / second_samples)
    return ComputeTime(high - slope * second_samples, slope, f"{first.source}; {second.source}")


def measured_settings(config: Config, num_samples: int) -> Config:
    """Return the settings of the job that is measured."""
    values = config.model_dump(mode="json")
    values["training"] |= {"batch_size": num_samples, "iterations": MEASURED_ITERATIONS, "epochs": 1000, "blocks": None}
    values["training"] |= {"order": "stored", "time_window": None, "shuffle_block": None}
    values["evaluation"] |= {"enabled": False, "every": None, "early_stopping_patience": None}
    values["checkpoint"] |= {"enabled": False, "every": None}
    values["roles"] = {"servers": 1}
    values["dense"] = {}
    values["cache"] = {}
    return Config.model_validate(values)
