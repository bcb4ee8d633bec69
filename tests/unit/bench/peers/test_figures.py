"""Ratios, spreads and the table of the comparison."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from bagpipe_hpc.bench.peers.figures import (
    Spread,
    best_own,
    cells_table,
    different_losses,
    explanation,
    failures,
    ratios,
)


def turn(rate: float, loss: float = 0.5, sent: float | None = None, others: int = 0) -> dict[str, Any]:
    return {
        "samples_per_second": rate,
        "loss": loss,
        "bytes_sent": sent,
        "trainer_bytes": 2_000_000_000,
        "other_bytes": others,
    }


def cell(**turns: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "case": {"repeats": 2},
        "hosts": 1,
        "systems": [*turns, "torchrec-table", "torchrec-row"],
        "turns": turns,
        "failed": dict.fromkeys(["torchrec-table", "torchrec-row"], "TorchRec is not installed"),
    }


CELL = cell(
    ddp=[turn(9e3), turn(12e3)],
    contiguous=[turn(18e3, others=10**9), turn(12e3)],
    locality=[turn(6e3, sent=2e6), turn(7e3, sent=4e6)],
    wire=[turn(30e3, loss=0.6), turn(30e3, loss=0.6)],
)


def test_ratios_are_within_repeats() -> None:
    assert ratios([9, 12], [18, 12]) == Spread(0.75, 0.5, 1.0)


def test_the_best_own_system_is_exact() -> None:
    assert best_own(CELL) == "contiguous"
    assert best_own(cell(ddp=[turn(1)])) is None


def test_the_table_shows_spread_ratio_bytes_and_memory() -> None:
    console = Console(width=100, record=True)
    console.print(cells_table({"T = 2": CELL}))
    lines = console.export_text().splitlines()
    rows = {name: next(line for line in lines if name in line) for name in ("DDP", "locality  ", "row-wise", "T = 2")}
    assert "10.5 (9.0-12.0)  0.75 (0.50-1.00)     -  2.00       -  0.50000" in rows["DDP"]
    assert " 3.00 " in rows["locality  "]
    assert "- (not installed)" in rows["row-wise"]
    why = "TorchRec table-wise (T = 2), TorchRec row-wise (T = 2): TorchRec is not installed"
    assert failures({"T = 2": CELL}) == [why]


def test_the_columns_are_explained() -> None:
    assert "of 2 repeat(s)" in explanation({"": CELL})
    assert "MB is -" in explanation({"": CELL})
    assert "there is no ratio" not in explanation({"": CELL})
    assert "there is no ratio" in explanation({"": cell(ddp=[turn(1)])})


@pytest.mark.parametrize(("loss", "different"), [(0.500001, []), (0.51, ["locality"]), (float("nan"), ["locality"])])
def test_losses_of_exact_systems_are_compared(loss: float, different: list[str]) -> None:
    assert different_losses(cell(ddp=[turn(1)], locality=[turn(1, loss)], wire=[turn(1, 0.9)])) == different
