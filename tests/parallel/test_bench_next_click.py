"""`bagpipe bench next-click` as a user runs it: a job and plain PyTorch predict the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.launch import run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "next-click"]
SMALL = ["--set", "model.embedding_dim=4", "--set", "training.batch_size=64"]


def make_log(path: Path) -> Path:
    """150 sessions of 2 to 5 clicks, several at a time; the articles of a session have the same last digit."""
    random = np.random.default_rng(3)
    lines = ["user_id,session_id,click_article_id,click_timestamp"]
    for session in range(150):
        digit, time = random.integers(0, 4), 1_000 * session
        for _ in range(random.integers(2, 6)):
            lines.append(f"{session % 40},{session},{10 * random.integers(0, 6) + digit},{time}")
            time += int(random.integers(1, 4_000))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_jobs_equal_plain_pytorch(tmp_path: Path) -> None:
    log = str(make_log(tmp_path / "log.csv"))
    files = ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "found.json")]
    done = run_ranks(4, [*BENCH, "--log", log, "--models", "mean,hstu", *SMALL, *files], timeout=180.0)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [each["model"] for each in found] == ["mean", "hstu"]
    for each in found:
        names = "auc", "grouped_auc", "hit_rate", "log_loss"
        ours, plain = ([each[way][name] for name in names] for way in ("ours", "other"))
        assert ours == pytest.approx(plain, abs=1e-3)
    assert not (tmp_path / "run").exists()


def test_dynamic_tables_stand_beside_static_ones(tmp_path: Path) -> None:
    log = str(make_log(tmp_path / "log.csv"))
    files = ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "found.json")]
    done = run_ranks(3, [*BENCH, "--log", log, "--models", "din", "--dynamic", *SMALL, *files], timeout=180.0)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert 0 < found["ours"]["rows"] <= 24 + 40 + 2
    assert found["ours"]["auc"] == pytest.approx(found["other"]["auc"], abs=0.2)


def test_a_log_that_cannot_be_used_is_refused_once(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("session_id,click_timestamp\n1,2\n")
    arguments = ["--log", str(tmp_path / "log.csv"), "--run-dir", str(tmp_path / "run")]
    done = run_ranks(3, [*BENCH, *arguments], timeout=60.0)
    assert done.returncode == 2
    assert done.stderr.count("has no column click_article_id") == 1
    assert not (tmp_path / "run").exists()
