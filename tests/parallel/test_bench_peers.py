"""`bagpipe bench peers` as a user runs it. Its speeds say nothing here; that all systems end with one loss, does."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from bagpipe_hpc.bench.peers.figures import EXACT_TOLERANCE
from tests.integration.conftest import make_dataset
from tests.launch import run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "peers", "--batch-size", "64", "--embedding-dim", "4", "--repeats", "1"]
SHORT = ["--warm-up", "2", "--iterations", "3"]
LIMIT = 120.0


def losses(tmp_path: Path, systems: str) -> dict[str, float]:
    """Return the loss of each system after five iterations."""
    written, picture = tmp_path / "peers.json", tmp_path / "peers.png"
    arguments = [*BENCH, *SHORT, "--data", str(make_dataset(tmp_path / "data")), "--systems", systems]
    files = ["--run-dir", str(tmp_path / "runs"), "--json", str(written), "--picture", str(picture)]
    done = run_ranks(4, [*arguments, *files], timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert picture.stat().st_size > 0
    figures = json.loads(written.read_text(encoding="utf-8"))
    assert figures["failed"] == {}
    return {name: turns[0]["loss"] for name, turns in figures["turns"].items()}


def test_peers_and_jobs_end_with_one_loss(tmp_path: Path) -> None:
    found = losses(tmp_path, "plain,ddp,hybrid,locality")
    assert list(found) == ["plain", "ddp", "hybrid", "locality"]
    # They differ in the order of their sums only; figures.py has the reason for the tolerance.
    assert list(found.values()) == pytest.approx([found["plain"]] * 4, rel=EXACT_TOLERANCE)


@pytest.mark.skipif(find_spec("torchrec") is None, reason="TorchRec is not installed")
def test_torchrec_ends_with_the_same_loss(tmp_path: Path) -> None:
    found = losses(tmp_path, "plain,torchrec-table-pipeline,torchrec-row")
    assert list(found.values()) == pytest.approx([found["plain"]] * 3, rel=EXACT_TOLERANCE)


def test_options_that_do_not_fit_are_said_once(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    done = run_ranks(4, [*BENCH, "--data", str(data), "--iterations", "100"], timeout=LIMIT)
    assert done.returncode == 2
    assert done.stderr.count("bagpipe: error: ") == 1
    assert "has 15 full training batches of 64 samples" in done.stderr
