"""A run directory as a job with two trainers and a server writes it: 60 iterations, a restart, a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bagpipe_hpc.runtime.run_directory import DONE

CAUSES = {"plan_wait": 0.001, "prefetch_wait": 0.003, "exchange": 0.002, "compute": 0.01}
BEGAN = 1000.0  # seconds since 1970
ENDED = 60


def trainer_line(trainer: int, iteration: int, count: int) -> dict[str, Any]:
    """The counts of a trainer after so many iterations of a start; trainer 1 fetches three times as many rows."""
    fetched = count * (3 if trainer else 1)
    return {
        "kind": "trainer", "time": BEGAN + iteration, "rank": 2 + trainer, "trainer": trainer, "iteration": iteration,
        "iterations": count, "samples": 10 * count, "seconds": 0.02 * count, "evaluation_seconds": 0.0,
        "seconds_by_cause": {cause: seconds * count for cause, seconds in CAUSES.items()},
        "delayed_seconds_by_cause": {"early_pushes": 0.004 * count},
        "rows_fetched": fetched, "rows_written_back": count, "rows_pushed": 5 * count,
        "bytes_fetched": 64 * fetched, "bytes_written_back": 64 * count, "bytes_exchanged": 320 * count,
        "bytes_dense": 1000 * count, "rows_by_server": [fetched], "memory_bytes": 10**8 + 10**6 * trainer,
        "device_bytes": 0, "host": "n1",
    }  # fmt: skip


def oracle_line(iteration: int, count: int) -> dict[str, Any]:
    """A line of the oracle."""
    return {"kind": "oracle", "time": BEGAN + iteration, "iteration": iteration, "cached_rows": [iteration, 7],
            "bytes_plans": 2000 * count, "memory_bytes": 3 * 10**8}  # fmt: skip


def start_line(iteration: int) -> dict[str, Any]:
    """The line of a start."""
    return {"kind": "start", "time": BEGAN + iteration, "iteration": iteration, "trainers": 2, "servers": 1,
            "end": ENDED, "cache_rows": 80, "versions": {"torch": "2.13.0"}}  # fmt: skip


def figures() -> list[dict[str, Any]]:
    """A job that dies after iteration 40 and goes on from the checkpoint of iteration 20."""
    lines = [start_line(0)]
    for iteration in (20, 40):
        lines += [trainer_line(trainer, iteration, iteration) for trainer in (0, 1)] + [
            oracle_line(iteration, iteration)
        ]
        if iteration == 20:
            lines.append({"kind": "checkpoint", "time": BEGAN + 21, "iteration": 20, "is_full": True, "seconds": 0.5,
                          "stall_seconds": 0.01, "bytes_written": 4096})  # fmt: skip
    lines.append(start_line(20))
    for iteration in (40, 60):
        lines += [trainer_line(trainer, iteration, iteration - 20) for trainer in (0, 1)]
        lines.append(oracle_line(iteration, iteration - 20))
    lines.append({"kind": "server", "time": BEGAN + 60, "rank": 1, "server": 0, "memory_bytes": 2 * 10**8})
    lines.append({"kind": "end", "time": BEGAN + 61, "iteration": 60, "outcome": "done", "reason": ""})
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a file of lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(path: Path, settings: str = "mode: cached\ntraining:\n  batch_size: 20\n", *, loss: float = 0.5) -> Path:
    """Write the run directory of the job, and return it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(settings)
    write_lines(path / "figures.jsonl", figures())
    lines = [{"iteration": n, "loss": loss + 1 / n, "samples_per_second": 1000.0 + n} for n in range(20, ENDED + 1, 20)]
    write_lines(path / "metrics.jsonl", lines)
    evaluations = [{"iteration": n, "num_samples": 9, "auc": 0.7 + n / 1000, "log_loss": 0.5} for n in (30, 60)]
    write_lines(path / "evaluations.jsonl", evaluations)
    summary = {
        "model": "dlrm", "mode": "cached", "trainers": 2, "servers": 1, "iterations": ENDED, "first_iteration": 20,
        "samples": 800, "seconds": 0.8, "samples_per_second": 1000.0, "loss": loss, "steady_milliseconds": 20.0,
        "milliseconds_per_iteration": {cause: 1e3 * seconds for cause, seconds in CAUSES.items()},
        "rows_fetched": 160, "rows_written_back": 80, "rows_pushed": 400, "bytes_fetched": 10240,
        "bytes_written_back": 5120, "bytes_exchanged": 25600, "bytes_dense": 80000, "bytes_plans": 80000,
        "evaluations": {"metric": "auc", "best": 0.76, "best_iteration": 60, "stopped_early": None},
        "devices": ["cpu"],
    }  # fmt: skip
    (path / "summary.json").write_text(json.dumps(summary))
    (path / DONE).write_text(f"{ENDED}\n")
    return path
