"""The figures of a run: summary.json and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from bagpipe_hpc.config import Config
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.oracle.dynamic_tables import TableFigures, figures_by_table
from bagpipe_hpc.oracle.metrics import METRIC_NAMES, EvaluationResult, in_words
from bagpipe_hpc.protocol.totals import RankTotals, TrainerTotals
from bagpipe_hpc.runtime.console import open_console

# The causes of the stopwatches of trainer/step.py, in the order of an iteration. The time of CAUSES is part of the time
# of an iteration. The work of DELAYED_CAUSES overlaps the next iteration; if nothing is delayed, its time is part of
# the time of an iteration too.
CAUSES = {
    "plan_wait": "plan wait",
    "prefetch_wait": "prefetch wait",
    "delayed_wait": "delayed wait",
    "exchange": "exchange",
    "cache": "cache",
    "compute": "compute",
    "update": "update",
    "dense": "dense",
}
DELAYED_CAUSES = {
    "delayed_gradients": "delayed gradients",
    "drain": "drain",
    "write_back": "write-back",
    "insert": "insert",
    "early_pushes": "early pushes",
    "checkpoint": "checkpoint",
}
COUNTERS = ("rows_fetched", "rows_written_back", "rows_pushed")
BYTES = ("bytes_fetched", "bytes_written_back", "bytes_exchanged", "bytes_dense")


def imbalance(counts: Sequence[int] | NDArray[np.int64]) -> float:
    """Return the ratio of the largest count to the mean; 1 if all are 0.

    Args:
        counts: One count per trainer, int64, shape (T,).
    """
    mean = float(np.mean(counts))
    return float(np.max(counts)) / mean if mean else 1.0


def summarise(
    config: Config,
    totals: RankTotals,
    *,
    digest: str,
    dense_backend: str = "none",
    exchange: str = "none",
    loss: float,
    bytes_plans: int,
    num_trained: int,
    start: int = 0,
    checkpoints: dict[str, Any] | None = None,
    evaluation: EvaluationResult | None = None,
    evaluations: dict[str, Any] | None = None,
    dynamic_tables: Mapping[str, TableFigures] | None = None,
    energy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of this start of the job. Times are means over the trainers.

    Args:
        config: The settings of the job.
        totals: The totals of all servers and trainers.
        digest: The digest of the model.
        dense_backend: What sums dense gradients.
        exchange: How rows get from trainer to trainer; see JobSpec.
        loss: The mean loss of the last iterations.
        bytes_plans: The bytes of all plans.
        num_trained: Training iterations of the whole job.
        start: Training iterations of earlier starts.
        checkpoints: Figures of the checkpoints.
        evaluation: The last evaluation.
        evaluations: Figures of all evaluations.
        dynamic_tables: Figures of the dynamic tables, by their names.
        energy: The energy of the job; None: no rank could read it.
    """
    trainers = totals.trainers
    seconds = max(trainer.seconds for trainer in trainers)
    samples = sum(trainer.samples for trainer in trainers)
    counts = {name: [getattr(trainer, name) for trainer in trainers] for name in (*COUNTERS, *BYTES)}
    return {
        "model": config.model.title,
        "mode": config.mode,
        "trainers": len(trainers),
        "servers": len(totals.servers),
        "iterations": num_trained,
        "first_iteration": start,
        "samples": samples,
        "seconds": seconds,
        "samples_per_second": samples / seconds if seconds else 0.0,
        "loss": loss,
        **_validation(evaluation),
        "evaluations": {
            **(evaluations or {}),
            "seconds": max(trainer.evaluation_seconds for trainer in trainers),
        },
        "steady_milliseconds": 1e3 * _steady_seconds([trainer.iteration_seconds for trainer in trainers]),
        "working_milliseconds": {
            thread: 1e3 * _steady_seconds([trainer.working_seconds[thread] for trainer in trainers])
            for thread in trainers[0].working_seconds
        },
        "milliseconds_per_iteration": _milliseconds(trainers, [trainer.seconds_by_cause for trainer in trainers]),
        "milliseconds_meanwhile": _milliseconds(trainers, [trainer.delayed_seconds_by_cause for trainer in trainers]),
        **{name: sum(values) for name, values in counts.items()},
        "imbalance": {name: imbalance(counts[name]) for name in COUNTERS},
        "bytes_plans": bytes_plans,
        "rows_touched": sum(server.rows_touched for server in totals.servers),
        "devices": sorted({trainer.device for trainer in trainers}),
        "exchange": exchange,
        "dense_backend": dense_backend,
        "threads_per_trainer": trainers[0].threads,
        "checkpoints": checkpoints or {},
        **({"dynamic_tables": tables} if (tables := figures_by_table(dynamic_tables or {})) else {}),
        "energy": energy,
        "model_digest": digest,
    }


def _milliseconds(trainers: Sequence[TrainerTotals], seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean time by cause of one iteration of one trainer, in milliseconds.

    Args:
        trainers: The totals of all trainers.
        seconds: By trainer, the seconds by cause of all its iterations.
    """
    num_iterations = max(1, sum(trainer.iterations for trainer in trainers))
    return {
        cause: 1e3 * sum(of_trainer.get(cause, 0.0) for of_trainer in seconds) / num_iterations
        for cause in {**CAUSES, **DELAYED_CAUSES}
    }


def _steady_seconds(iteration_seconds: list[NDArray[np.float64]]) -> float:
    """Return the median time of an iteration over the middle third of the job, which leaves out its start and its end.

    Args:
        iteration_seconds: By trainer, the time of each iteration, float64, shape (n,).
    """
    num_iterations = len(iteration_seconds[0])
    if num_iterations == 0:
        return 0.0
    middle = slice(num_iterations // 3, max(num_iterations // 3 + 1, 2 * num_iterations // 3))
    return float(np.median([seconds[middle] for seconds in iteration_seconds]))


def show_summary(summary: dict[str, Any], run_path: Path) -> None:
    """Log the closing table."""
    trained = summary["iterations"] - summary["first_iteration"]
    table = Table(title=f"{summary['model']}, {summary['mode']}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    if trained:
        table.add_row("samples/s", f"{summary['samples_per_second']:,.0f}", f"mean: {summary['samples']:,} samples, "
                      f"{trained:,} iterations in {summary['seconds']:.1f} s")  # fmt: skip
        table.add_row("training loss", f"{summary['loss']:.4f}", "mean of the last iterations")
    if summary["validation_samples"]:
        _add_metrics(table, summary)
    _add_evaluations(table, summary["evaluations"])
    if trained:
        _add_costs(table, summary, trained)
    console = open_console()
    with console.capture() as captured:
        console.print(table)
    LOGGER.info("%s", captured.get().rstrip("\n"))
    LOGGER.info("model digest %s", summary["model_digest"])
    LOGGER.info("run directory %s", run_path)


def _validation(evaluation: EvaluationResult | None) -> dict[str, Any]:
    """Return the metrics of the last evaluation by name. Those that only some data sets have are left out."""
    found = (evaluation or EvaluationResult(0)).to_json()
    return {f"validation_{name.removeprefix('num_')}": value for name, value in found.items()}


def _add_metrics(table: Table, summary: dict[str, Any]) -> None:
    """Add the metrics of the last evaluation; with several labels, one row for each."""
    samples = f"{summary['validation_samples']:,} samples"
    if labels := summary.get("validation_labels"):
        for number, (name, metrics) in enumerate(labels.items()):
            first, _, rest = in_words(metrics).partition(", ")
            told = [part for part in (rest, "" if number else samples) if part]
            table.add_row(f"validation, {name}", first or "no labels", "; ".join(told))
        return
    if summary["validation_log_loss"] is None and (mse := summary.get("validation_mse")) is not None:
        table.add_row("validation mean squared error", f"{mse:.4f}", samples)
        return
    if summary["validation_log_loss"] is None:
        table.add_row("samples predicted", f"{summary['validation_samples']:,}", "they have no labels")
        return
    auc = summary["validation_auc"]
    table.add_row("validation AUC", "undefined" if auc is None else f"{auc:.4f}", samples)
    table.add_row("validation log loss", f"{summary['validation_log_loss']:.4f}", "")
    if auc is not None:
        table.add_row("normalised entropy", f"{summary['validation_normalised_entropy']:.4f}",
                      "log loss to that of the mean label")  # fmt: skip
        table.add_row("calibration", f"{summary['validation_calibration']:.4f}", "mean prediction to mean label")
    for name, what in (("grouped_auc", "mean over groups"), ("hit_rate", "over groups"), ("ndcg", "over groups")):
        if (value := summary.get(f"validation_{name}")) is not None:
            table.add_row(name.replace("_", " "), f"{value:.4f}", what)


def _add_evaluations(table: Table, evaluations: dict[str, Any]) -> None:
    """Add the evaluations if there was more than one, and whether they stopped the job early."""
    windows = evaluations.get("windows", {})
    for name in ("auc", "log_loss", "mse"):
        if name in windows and evaluations["number"]:
            table.add_row(f"progressive {METRIC_NAMES[name]}", f"{windows[name]:.4f}",
                          f"mean of {windows['number']:,} windows before training on them")  # fmt: skip
    if evaluations.get("number", 0) > 1:
        table.add_row("evaluations", f"{evaluations['number']:,}", f"{evaluations['seconds']:.1f} s, and "
                      f"{evaluations['metric_seconds']:.1f} s of metrics while training went on")  # fmt: skip
    if evaluations.get("number", 0) > 1 and not windows:
        best = "undefined" if evaluations["best"] is None else f"{evaluations['best']:.4f}"
        table.add_row(f"best {evaluations['metric']}", best, f"after {evaluations['best_iteration']:,} iterations")
    if reason := evaluations.get("stopped_early"):
        table.add_row("stopped early", "", reason)


def _add_costs(table: Table, summary: dict[str, Any], trained: int) -> None:
    """Add the time by cause, the rows and the bytes."""
    table.add_section()
    times = summary["milliseconds_per_iteration"]
    total = sum(times.values()) or 1.0
    for cause, name in {**CAUSES, **DELAYED_CAUSES}.items():
        if times[cause] or cause in CAUSES:
            table.add_row(name, f"{times[cause]:.2f} ms", f"{times[cause] / total:.0%} of an iteration")
    table.add_row("iteration", f"{summary['steady_milliseconds']:.2f} ms", "median of the middle third")
    table.add_section()
    if any(summary["milliseconds_meanwhile"].values()):
        for cause, milliseconds in summary["milliseconds_meanwhile"].items():
            if milliseconds:
                name = {**CAUSES, **DELAYED_CAUSES}[cause]
                table.add_row(f"{name}, overlapped", f"{milliseconds:.2f} ms", "while an iteration computes")
        table.add_section()
    for name in COUNTERS:
        table.add_row(name.replace("_", " "), f"{summary[name]:,}", f"{summary[name] / max(1, trained):,.0f} per "
                      f"iteration, most of one trainer {summary['imbalance'][name]:.2f} x mean")  # fmt: skip
    for name, figures in summary.get("dynamic_tables", {}).items():
        table.add_row(f"ids of {name}", f"{figures['live']:,}", f"{figures['admitted']:,} admitted, "
                      f"{figures['expired']:,} expired, {figures['replaced']:,} replaced; "
                      f"{figures['default_share']:.1%} of uses without a row")  # fmt: skip
    table.add_row("rows touched", f"{summary['rows_touched']:,}", "")
    if checkpoints := summary["checkpoints"]:
        table.add_section()
        after = checkpoints["seconds_after_training"]
        during = checkpoints["write_seconds"] - after
        table.add_row("checkpoints", f"{checkpoints['written']:,}", f"{_human(checkpoints['bytes_written'])}, written "
                      f"in {during:.1f} s during training, {after:.1f} s after it")  # fmt: skip
        table.add_row("checkpoint stall", f"{1e3 * checkpoints['stall_seconds']:.1f} ms",
                      "training was held up by all checkpoints")  # fmt: skip
    table.add_section()
    for name in (*BYTES, "bytes_plans"):
        table.add_row(name.replace("_", " "), _human(summary[name]), "")


def _human(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"
