"""The bound of staged transfer, medians, and what is shown of them."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bagpipe_hpc.bench.rma_figures import BOUND, RmaFigures, Surroundings, with_bound
from bagpipe_hpc.bench.rma_traffic import Direction, RmaTraffic, RmaTransport

SURROUNDINGS = Surroundings("mpirun -n 2 bagpipe bench rma", "Open MPI v9", ("node1", "node2"))


def rates(server: float, contiguous: float, staged: float) -> dict[str, float]:
    return {"memcpy": 90e6, "server": server, "contiguous": contiguous, "staged": staged}


@pytest.fixture
def figures() -> RmaFigures:
    fetches = [rates(8e6, 10e6, 6e6), rates(8e6, 5e6, 4.5e6), rates(7e6, 9e6, 7e6)]
    write_backs = [rates(4e6, 10e6, 3e6)] * 3
    rounds = [
        {Direction.FETCH: fetch, Direction.WRITE_BACK: write_back}
        for fetch, write_back in zip(fetches, write_backs, strict=True)
    ]
    return RmaFigures(RmaTraffic(dim=64, transports=(RmaTransport.STAGED,)), SURROUNDINGS, rounds)


def test_the_slower_half_is_the_bound() -> None:
    assert with_bound(rates(8e6, 10e6, 6e6))[BOUND] == 8e6
    assert with_bound(rates(8e6, 5e6, 6e6))[BOUND] == 5e6


def test_medians_and_each_round_against_its_own_bound(figures: RmaFigures) -> None:
    assert figures.rate(Direction.FETCH, "staged") == 6e6
    assert figures.rate(Direction.FETCH, BOUND) == 7e6  # of 8, 5, 7
    assert figures.share_of_bound(Direction.FETCH, "staged") == 0.9  # of 6/8, 4.5/5, 7/7
    assert figures.share_of_bound(Direction.WRITE_BACK, "staged") == 0.75


def test_json_has_everything(figures: RmaFigures) -> None:
    written = json.loads(json.dumps(figures.to_json()))
    assert written["hosts"] == ["node1", "node2"]
    assert written["options"]["transports"] == ["staged"]
    assert written["median"]["fetch"]["staged"] == {
        "rows_per_second": 6e6,
        "gigabytes_per_second": 1.536,
        "share_of_bound": 0.9,
    }
    assert written["rounds_rows_per_second"][1]["write_back"]["server"] == 4e6


def test_the_table_names_what_the_figures_depend_on(figures: RmaFigures) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(figures.table())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    staged = [line.split("│")[1:-1] for line in shown.splitlines() if "staged" in line]
    assert [cell.strip() for cell in staged[0]] == ["staged", "6.00", "1.54", "90%", "3.00", "0.77", "75%"]
    assert "Open MPI v9; 2 ranks on 2 host(s); mpirun -n 2 bagpipe bench rma" in shown
