"""A real click log, from its file to a model: two tables, a label made of sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch import REPO_ROOT, run_ranks

CLICKS = REPO_ROOT / ".." / "shared" / "data" / "globo_clicks_1m.csv.gz"
SCHEMA = """
label: {column: session_id, continues: true}  # not the last click of its session
categorical: [user_id, click_article_id]
"""


@pytest.mark.skipif(not CLICKS.exists(), reason="no globo_clicks_1m.csv.gz in ../shared/data beside the repository")
def test_two_tables_learn_from_a_million_clicks(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    clicks, run = str(tmp_path / "clicks"), str(tmp_path / "run")
    command = ["import", "table", str(CLICKS), "--schema", str(tmp_path / "schema.yaml"), "--output", clicks]
    made = run_ranks(2, ["-m", "bagpipe_hpc", *command, "--samples-per-shard", "250000"], timeout=120)
    assert made.returncode == 0, made.stderr
    settings = ["model.name=deepfm", "training.batch_size=512", "training.learning_rate=5", "training.threads=1"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    trained = run_ranks(3, ["-m", "bagpipe_hpc", "train", "--data", clicks, "--run-dir", run, *overrides], timeout=240)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 900_000
    assert summary["validation_auc"] > 0.55, summary
