"""Whole jobs whose trainers compile the model, and jobs that cannot run it as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bagpipe_hpc
from bagpipe_hpc.errors import PlatformError
from tests.integration.conftest import make_dataset
from tests.integration.jobs import summary_of
from tests.integration.programs import own_models
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
COMMON = ["training.epochs=1", "training.batch_size=36", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", f"model.factory={own_models.__name__}:noisy", "evaluation.batch_size=40"]


def test_compiled_jobs_are_equal_to_each_other(tmp_path: Path) -> None:
    """Their model draws random numbers. The last batch of the epoch is smaller than the others, so it runs eagerly."""
    data = make_dataset(tmp_path / "data")
    compiled = "training.execution=compiled"
    runs = {
        "synchronous": [compiled, "mode=synchronous"],
        "cached": [
            compiled,
            "lookahead.window=8",
            "lookahead.prefetch_depth=2",
            "cache.rows=400",
            "watchdog.seconds=1",
        ],
        "eager": [],
    }
    jobs: list[dict[str, Any]] = [{"set": [*COMMON, *settings], "run": name} for name, settings in runs.items()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(4, [PROGRAM, str(data), str(tmp_path), str(tmp_path / "jobs.json")], timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compiling the model for 18 samples (training.execution=compiled)\n" in done.stderr
    summaries = {name: summary_of(tmp_path / name) for name in runs}
    digests = {name: summary["model_digest"] for name, summary in summaries.items()}
    assert digests["cached"] == digests["synchronous"]
    for key in ("validation_auc", "validation_log_loss"):
        assert summaries["cached"][key] == pytest.approx(summaries["eager"][key], abs=1e-3)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("graph", "only GPUs replay graphs, and a trainer computes on the CPU; set training.execution to eager"),
        ("compiled", "torch.compile needs a compiler, and PATH has no nothing-of-the-kind"),
    ],
)
def test_what_a_trainer_lacks_is_said_before_the_job_starts(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setenv("CXX", "nothing-of-the-kind")
    settings = {"training": {"execution": how, "device": "cpu"}}
    with pytest.raises(PlatformError, match=f"training.execution = '{how}': {words}"):
        bagpipe_hpc.run(settings, data=small_dataset, run_dir=tmp_path / "run", local=True)
    assert not (tmp_path / "run").exists()
