"""The page is one file, and text from a run cannot become markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bagpipe_hpc.report import page
from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.page import page_of, picture_of
from bagpipe_hpc.report.run_directory import read_run

from .synthetic import write_run

EVIL = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vega takes seconds to bundle; the test in a browser has the real one."""
    monkeypatch.setattr(page, "_library", lambda: "/* Vega */")


def test_one_run(tmp_path: Path) -> None:
    text = page_of([RunFigures(read_run(write_run(tmp_path / "run")))], [])
    assert text.startswith("<!DOCTYPE html>")
    assert "dlrm, cached, 2 trainers, 1 server, on n1" in text
    assert re.search(r"(src|href)=.?(https?:|//)", text) is None
    assert "const refreshSeconds = 0.0;" in text
    found = re.search(r'id="specs">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["loss"]["usermeta"] == {"is_over_time": True}


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    evil = replace(
        run, name=EVIL, reason=EVIL, settings={EVIL: EVIL}, summary={**run.summary, EVIL: EVIL, "model": EVIL}
    )
    figures = [{**line, "host": EVIL, "versions": {EVIL: EVIL}} for line in run.figures]
    text = page_of([RunFigures(replace(evil, figures=tuple(figures)))], [])
    assert "<img src=x" not in text
    assert text.count("</script>") == 3


def test_several_runs_have_a_table_and_differences(tmp_path: Path) -> None:
    first = read_run(write_run(tmp_path / "a"))
    second = read_run(write_run(tmp_path / "b", "mode: synchronous\n", loss=0.25))
    text = page_of([RunFigures(first), RunFigures(second)], [], refresh_seconds=5.0)
    assert "Settings that differ between the runs." in text
    assert '<span class="change">-50.0%</span>' in text
    assert "const refreshSeconds = 5.0;" in text


def test_a_picture(tmp_path: Path) -> None:
    assert picture_of([RunFigures(read_run(write_run(tmp_path / "run")))]).startswith(b"\x89PNG")
