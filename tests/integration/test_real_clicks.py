"""A real click log, from its file to a model: two tables, a label made of sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.launch import run_ranks
from tests.parts import real_clicks

CLICKS = "globo_clicks_1m.csv.gz"
SCHEMA = """
label: {column: session_id, continues: true}  # not the last click of its session
categorical: [user_id, click_article_id]
"""


def test_two_tables_learn_from_a_million_clicks(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    clicks = str(tmp_path / "clicks")
    command = [
        "import",
        "table",
        str(real_clicks(CLICKS)),
        "--schema",
        str(tmp_path / "schema.yaml"),
        "--output",
        clicks,
    ]
    made = run_ranks(2, ["-m", "bagpipe_hpc", *command, "--samples-per-shard", "250000"], timeout=120)
    assert made.returncode == 0, made.stderr
    summary = train(clicks, tmp_path / "exact", "float32")
    assert summary["samples"] == 900_000
    assert summary["validation_auc"] > 0.55, summary
    rounded = train(clicks, tmp_path / "rounded", "float16")
    assert abs(rounded["validation_auc"] - summary["validation_auc"]) < 0.003, (rounded, summary)
    assert 2 * rounded["bytes_exchanged"] == summary["bytes_exchanged"]


def train(clicks: str, run: Path, wire_dtype: str) -> dict[str, Any]:
    settings = ["model.name=deepfm", "training.batch_size=512", "training.learning_rate=5", "training.threads=1"]
    overrides = [word for setting in (*settings, f"training.wire_dtype={wire_dtype}") for word in ("--set", setting)]
    command = ["-m", "bagpipe_hpc", "train", "--data", clicks, "--run-dir", str(run), *overrides]
    trained = run_ranks(4, command, timeout=240)
    assert trained.returncode == 0, trained.stderr
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary
