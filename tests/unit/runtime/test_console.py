"""Where commands show things: nothing is cut off, however narrow the terminal."""

from __future__ import annotations

import pytest

from bagpipe_hpc.runtime import console
from bagpipe_hpc.runtime.console import MIN_WIDTH, PLAIN_WIDTH, open_console


@pytest.mark.parametrize(("columns", "width"), [(40, MIN_WIDTH), (140, 140)])
def test_a_narrow_terminal_gets_tables_that_are_whole(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_seen_on_a_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert open_console().width == width


def test_a_log_has_a_width_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert open_console().width == PLAIN_WIDTH
