"""What is shown of the ids of dynamic tables."""

from __future__ import annotations

import io

import numpy as np
import pytest

from bagpipe_hpc.cli import listed_ids
from bagpipe_hpc.cli.listed_ids import show_tables, write_ids
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.lookahead.dynamic_rows import DynamicRows

RULES = DynamicSchema(capacity=1000, admit_after=2, default_rows=3)


def rows_of() -> DynamicRows:
    rows = DynamicRows(RULES)
    rows.use(np.array([7, -5, 7, 8]), 1)
    rows.use(np.array([-5, 9]), 4)
    return rows


@pytest.mark.parametrize("lines", [1, 100])
def test_lines(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr(listed_ids, "_LINES", lines)
    output = io.StringIO()
    write_ids(rows_of().state_before([]).live, RULES.default_rows, output)
    assert output.getvalue().splitlines() == ["id,row,uses,last_use", "7,3,2,1", "-5,4,2,4"]


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    empty = DynamicRows(RULES).state_before([])
    show_tables({"user": (rows_of().state_before([]), RULES), "item": (empty, RULES)})
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1] == ["user", "1,000", "2", "0", "2", "2.0", "2", "iteration", "1"]
    assert shown[2] == ["item", "1,000", "0", "0", "0", "0.0", "0", "iteration", "0"]
