"""Ratios, what is missing, and the tables as a user sees them."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from bagpipe_hpc.bench.gpu.case import Cell, GpuCase
from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES, GpuFigures, notes, tables
from bagpipe_hpc.oracle.summary import CAUSES

SMALL, LARGE = Cell(1_000, 16), Cell(65_536, 16)


def job(milliseconds: float) -> dict[str, Any]:
    causes = {cause: float(place) for place, cause in enumerate(CAUSES)}
    return {
        "milliseconds": milliseconds, "milliseconds_per_iteration": causes, "device_model": 1.25,
        "device_iteration": 120.0,
    }  # fmt: skip


@pytest.fixture
def figures() -> GpuFigures:
    case = GpuCase(batch_sizes=(1_000, 65_536), dims=(16,), repeats=2)
    found = GpuFigures(case, {"device": "a [fast] GPU", "kernels": "Triton 9"}, "/data", 3_000_000, 77, seconds=12)
    for repeat, (resident, trained) in enumerate([(10.0, 11.0), (20.0, 30.0)]):
        assert found.add(SMALL, "resident", repeat, {"milliseconds": resident}) == ""
        assert found.add(SMALL, "trainers-1", repeat, job(trained)) == ""
    kernel = {"num_bytes": 4e9, "milliseconds": 2.0, "copy_milliseconds": 1.5}
    found.add(SMALL, "kernels", 0, {"kernels": dict.fromkeys(KERNEL_NAMES, kernel)})
    for cell in (SMALL, LARGE):
        found.add(cell, "fbgemm", 0, {"skipped": "FBGEMM is not installed"})
    found.add(LARGE, "resident", 0, {"skipped": "no time left"})
    found.add(LARGE, "trainers-1", 0, {"error": "the process was killed by SIGKILL"})
    return found


def shown(figures: GpuFigures) -> str:
    console = Console(width=100, record=True, markup=False)
    for part in [*tables(figures), *notes(figures)]:
        console.print(part)
    return console.export_text()


def test_ratios_are_within_repeats(figures: GpuFigures) -> None:
    spread = figures.against_resident(SMALL, "trainers-1")
    assert spread is not None
    assert (spread.low, spread.high) == pytest.approx((1.1, 1.5))
    assert figures.against_resident(LARGE, "trainers-1") is None


def test_a_repeat_that_only_one_system_has_does_not_count(figures: GpuFigures) -> None:
    figures.add(SMALL, "trainers-1", 2, job(1000.0))
    spread = figures.against_resident(SMALL, "trainers-1")
    assert spread is not None
    assert spread.high == pytest.approx(1.5)


def test_the_tables(figures: GpuFigures) -> None:
    text = shown(figures)
    lines = text.splitlines()
    assert "training on a [fast] GPU" in text
    assert "…" not in text
    own = next(line for line in lines if "bagpipe_hpc, 1 trainer" in line)
    assert own.split()[-4:] == ["20.50", "(11.00-30.00)", "1.30", "(1.10-1.50)"]
    causes = next(line for line in lines if line.startswith("1,000, 16, 1"))
    assert causes.split()[3:] == ["0.00", "1.00", "2.00", "3.00", "4.00", "5.00", "6.00", "7.00", "1.25", "120"]
    assert "2,000.0 (75%)" in text


def test_what_is_missing_is_named_with_its_reason(figures: GpuFigures) -> None:
    text = " ".join(shown(figures).split())
    assert "Not measured: FBGEMM tables (everywhere): FBGEMM is not installed" in text
    assert "Not measured: all rows resident (B = 65,536, D = 16): no time left" in text
    assert "Failed: B = 65,536, D = 16, bagpipe_hpc, 1 trainer, repeat 1: the process was killed by SIGKILL" in text
    assert text.count("SIGKILL") == 1


def test_a_later_repeat_without_time_is_not_missing(figures: GpuFigures) -> None:
    assert figures.add(SMALL, "resident", 2, {"skipped": "no time left"}) == "no time left"
    assert "resident" not in figures.missing[SMALL]


def test_a_later_repeat_that_fails_is_named(figures: GpuFigures) -> None:
    figures.add(SMALL, "resident", 1, {"error": "no disk left"})
    assert "resident, repeat 2: no disk left" in " ".join(shown(figures).split())


def test_all_figures_are_in_the_file(figures: GpuFigures) -> None:
    first, second = figures.to_json()["cells"]
    assert [turn["milliseconds"] for turn in first["turns"]["trainers-1"]] == [11.0, 30.0]
    assert first["kernels"]["pool_rows"]["gigabytes_per_second"] == pytest.approx(2000.0)
    assert second["missing"]["resident"] == "no time left"
    assert figures.has_figures


def test_without_figures_there_is_no_table_to_fail() -> None:
    empty = GpuFigures(GpuCase(), {"device": "CPU", "kernels": "loops"}, "/data", 1, 1)
    assert not empty.has_figures
    assert tables(empty) == []
    assert "Data: /data" in shown(empty)
