"""The pages of `bagpipe report` in a real browser: all charts are drawn, nothing is said on the console, no network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.page import page_of
from bagpipe_hpc.report.run_directory import read_run
from tests.parts import skip_or_fail
from tests.unit.report.synthetic import write_run

MAX_BYTES = 5_000_000
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--window-size=1366,768", "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> str:
    """The program."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    skip_or_fail("browser", "no chromium")


def drawn(browser: str, page: Path, profile: Path) -> str:
    """The document after its scripts have run."""
    command = [browser, *OPTIONS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("names", [["<b>first & only"], ["first", "second", "third"]], ids=["one run", "three runs"])
def test_all_charts_are_drawn(browser: str, tmp_path: Path, names: list[str]) -> None:
    runs = [RunFigures(read_run(write_run(tmp_path / name, loss=0.5 / number))) for number, name in enumerate(names, 1)]
    page = tmp_path / "report.html"
    page.write_text(page_of(runs, []))
    print(f"the page has {page.stat().st_size:,} bytes")
    assert page.stat().st_size < MAX_BYTES
    document = drawn(browser, page, tmp_path / "profile")
    num_charts = len(re.findall(r'id="chart-', document))
    assert num_charts == (11 if len(names) == 1 else 7)
    assert f'data-drawn="{num_charts}"' in document
    sizes = re.findall(r'<svg[^>]*? width="(\d+)" height="(\d+)"', document)
    assert len(sizes) == num_charts
    assert all(int(width) > 300 and int(height) > 150 for width, height in sizes), sizes
    if len(names) == 1:
        assert "&lt;b&gt;first &amp; only" in document
        assert "<b>first" not in document
