"""The figures of `bagpipe bench gpu` and their tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.bench.gpu.case import Cell, GpuCase
from bagpipe_hpc.bench.peers.figures import Spread, ratios
from bagpipe_hpc.oracle.summary import CAUSES

RESIDENT = "resident"
FBGEMM = "fbgemm"
KERNELS = "kernels"
KERNEL_NAMES = ("gather_rows", "pool_rows", "add_row_gradients", "update_rows")
Answer = dict[str, Any]


def job_name(trainers: int) -> str:
    """Return the name of the system that is a job of bagpipe_hpc."""
    return f"trainers-{trainers}"


def title_of(system: str) -> str:
    """Return the name of a system for users."""
    if system.startswith("trainers-"):
        number = int(system.removeprefix("trainers-"))
        return f"bagpipe_hpc, {number} trainer{'s' if number > 1 else ''}"
    return {RESIDENT: "all rows resident", FBGEMM: "FBGEMM tables", KERNELS: "kernels on rows"}[system]


@dataclass
class GpuFigures:
    """What has been measured, and why the rest has not.

    Args:
        case: The options.
        device: What the worker says of its device.
        data: Directory of the data set.
        data_bytes: Its size.
        cache_rows: Slots of the cache of each trainer.
        is_local: Whether jobs with one trainer run in one process, because there is no launcher.
        seconds: How long everything has taken.
        turns: By cell and system, the answers by number of the repeat.
        missing: By cell and system, why there is no answer.
        errors: What failed, and why. What is not installed, does not fit or had no time has not failed.
    """

    case: GpuCase
    device: Answer
    data: str
    data_bytes: int
    cache_rows: int
    is_local: bool = False
    seconds: float = 0.0
    turns: dict[Cell, dict[str, dict[int, Answer]]] = field(default_factory=dict)
    missing: dict[Cell, dict[str, str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell, system: str, repeat: int, answer: Answer) -> str:
        """Take the answer of a worker. Returns why there are no figures in it; empty if there are."""
        reason = answer.get("skipped") or answer.get("error") or ""
        if not reason:
            self.turns.setdefault(cell, {}).setdefault(system, {})[repeat] = answer
        elif system not in self.turns.get(cell, {}):
            self.missing.setdefault(cell, {})[system] = reason
        if "error" in answer:
            self.errors[f"{cell.title}, {title_of(system)}, repeat {repeat + 1}"] = reason
        return str(reason)

    def milliseconds(self, cell: Cell, system: str) -> dict[int, float]:
        """Return the time of an iteration by number of the repeat."""
        return {r: float(turn["milliseconds"]) for r, turn in self.turns.get(cell, {}).get(system, {}).items()}

    def against_resident(self, cell: Cell, system: str) -> Spread | None:
        """Return the time divided by that with resident rows in the same repeat; None: no repeat has both."""
        own, resident = self.milliseconds(cell, system), self.milliseconds(cell, RESIDENT)
        both = [repeat for repeat in own if repeat in resident]
        return ratios([own[r] for r in both], [resident[r] for r in both]) if both else None

    def kernels(self, cell: Cell) -> dict[str, dict[str, float]]:
        """Return the figures of each kernel by its name; empty: not measured."""
        turns = self.turns.get(cell, {}).get(KERNELS, {})
        kernels: dict[str, dict[str, float]] = turns[0]["kernels"] if turns else {}
        return {
            name: {
                **kernel,
                "gigabytes_per_second": kernel["num_bytes"] / 1e6 / kernel["milliseconds"],
                "share_of_copy": kernel["copy_milliseconds"] / kernel["milliseconds"],
            }
            for name, kernel in kernels.items()
        }

    @property
    def has_figures(self) -> bool:
        """Whether any job or peer was measured."""
        return any(system != KERNELS for turns in self.turns.values() for system in turns)

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "case": self.case.to_json(),
            "device": self.device,
            "data": self.data,
            "data_bytes": self.data_bytes,
            "cache_rows": self.cache_rows,
            "is_local": self.is_local,
            "seconds": self.seconds,
            "cells": [
                {
                    "batch_size": cell.batch_size,
                    "dim": cell.dim,
                    "turns": {name: list(turns.values()) for name, turns in self.turns.get(cell, {}).items()},
                    "kernels": self.kernels(cell),
                    "missing": self.missing.get(cell, {}),
                }
                for cell in sorted(self.case.cells)
            ],
            "errors": self.errors,
        }


def tables(figures: GpuFigures) -> list[Table]:
    """Return the tables that have rows: speeds, times by cause, kernels."""
    return [table for table in (speed_table(figures), cause_table(figures), kernel_table(figures)) if table.row_count]


def speed_table(figures: GpuFigures) -> Table:
    """Return samples/s and ms of each system in each cell."""
    table = compact_table(
        f"training on {figures.device['device']}", "B, D", ("system", "k samples/s", "ms per iteration", "to resident")
    )
    table.columns[1].justify = "left"
    for cell in _cells(figures):
        table.add_section()
        for place, system in enumerate(_systems(figures, cell)):
            times = Spread.of(list(figures.milliseconds(cell, system).values()))
            ratio = figures.against_resident(cell, system)
            table.add_row(
                f"{cell.batch_size:,}, {cell.dim}" if place == 0 else "",
                title_of(system),
                f"{cell.batch_size / times.median:,.1f}",
                f"{times.median:.2f} ({times.low:.2f}-{times.high:.2f})",
                "" if ratio is None or system == RESIDENT else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})",
            )
    return table


def cause_table(figures: GpuFigures) -> Table:
    """Return the time of an iteration of each job by cause."""
    heads = [name.removesuffix(" wait") for name in CAUSES.values()]
    table = compact_table("ms per iteration by cause, on the host", "B, D, T", [*heads, "model", "device"])
    for cell in _cells(figures):
        for trainers in figures.case.trainers:
            turns = list(figures.turns.get(cell, {}).get(job_name(trainers), {}).values())
            if turns:
                causes = [
                    statistics.median(turn["milliseconds_per_iteration"][cause] for turn in turns) for cause in CAUSES
                ]
                device = [
                    statistics.median(turn[name] for turn in turns) for name in ("device_model", "device_iteration")
                ]
                table.add_row(
                    f"{cell.batch_size:,}, {cell.dim}, {trainers}", *(_short(value) for value in [*causes, *device])
                )  # fmt: skip
    return table


def kernel_table(figures: GpuFigures) -> Table:
    """Return the bandwidth of each kernel in each cell."""
    title = f"kernels on rows ({figures.device['kernels']}): GB/s, % of a copy"
    table = compact_table(title, "B, D", KERNEL_NAMES)
    for cell in _cells(figures, needs_kernels=True):
        kernels = figures.kernels(cell)
        table.add_row(
            f"{cell.batch_size:,}, {cell.dim}",
            *(
                f"{kernels[name]['gigabytes_per_second']:,.1f} ({kernels[name]['share_of_copy']:.0%})"
                for name in KERNEL_NAMES
            ),
        )
    return table


def notes(figures: GpuFigures) -> list[str]:
    """Return what the columns mean, what is missing and why, and what was trained."""
    case = figures.case
    lines = [
        "ms per iteration: median (lowest-highest) of the repeats; to resident: divided by that of the same model with "
        "all rows in device memory, without planning, copies or exchange, in the same repeat. By cause: means over "
        "whole jobs, with their first and last iterations; plan, prefetch and delayed are waits. model, device: times "
        "of the device in the stream that computes: of forward and backward, and of everything.",
        *(
            ["Without mpirun, all ranks of a job with one trainer are threads of one process."]
            if figures.is_local
            else []
        ),
        *_missing(figures),
        *(f"Failed: {what}: {reason}" for what, reason in figures.errors.items()),
        f"Data: {figures.data}, {case.num_samples:,} samples, {figures.data_bytes / 1e6:,.0f} MB; "
        f"{figures.cache_rows:,} rows of cache per trainer; L = {case.window}; {case.iterations} timed iterations. "
        f"All took {figures.seconds:.0f} s of {60 * case.minutes:.0f} s.",
    ]
    return lines


def _missing(figures: GpuFigures) -> Iterable[str]:
    """Return a line for each reason, with the cells and systems that it keeps from being measured."""
    reasons: dict[tuple[str, str], list[Cell]] = {}
    for cell, missing in figures.missing.items():
        for system, reason in missing.items():
            if reason in figures.errors.values():
                continue
            reasons.setdefault((system, reason), []).append(cell)
    for (system, reason), cells in reasons.items():
        where = (
            "everywhere" if len(cells) == len(figures.case.cells) else "; ".join(cell.title for cell in sorted(cells))
        )
        yield f"Not measured: {title_of(system)} ({where}): {reason}"


def _cells(figures: GpuFigures, *, needs_kernels: bool = False) -> list[Cell]:
    """Return the cells with figures, ascending."""
    return [
        cell
        for cell in sorted(figures.case.cells)
        if (figures.kernels(cell) if needs_kernels else _systems(figures, cell))
    ]


def _systems(figures: GpuFigures, cell: Cell) -> list[str]:
    """Return the systems that were measured, in the order of the table."""
    order = [RESIDENT, *(job_name(trainers) for trainers in figures.case.trainers), FBGEMM]
    return [system for system in order if figures.milliseconds(cell, system)]


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"
