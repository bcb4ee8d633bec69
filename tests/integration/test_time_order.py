"""Training in windows of data time: equal to plain training on the same batches, to the bit, started once or twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.exit_codes import EXIT_INVALID
from tests.integration.conftest import NUM_SAMPLES, make_dataset
from tests.integration.jobs import START_SECONDS, command, finish, summary_of
from tests.integration.plain_training import plain_digest
from tests.integration.test_restart import finish_all, iteration, losses, saved_iterations
from tests.launch import run_ranks

ENDS = [130, 137, 512, 513, NUM_SAMPLES]  # of the windows
COMMON = ["training.order=time", "training.time_window=24", "training.batch_size=50", "training.learning_rate=0.5"]
COMMON += ["training.threads=1", "model.embedding_dim=8", "lookahead.window=8", "evaluation.batch_size=300"]
Job = dict[str, Any]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hours of several days, one of which has no sample."""
    days = np.searchsorted(ENDS, np.arange(NUM_SAMPLES), side="right")
    times = 24 * (days + (days > 2)) + np.arange(NUM_SAMPLES) * 24 // NUM_SAMPLES
    return make_dataset(tmp_path_factory.mktemp("data") / "timed", times=times)


def job(*settings: str, run: str, resume: Path | None = None) -> Job:
    return {"set": [*COMMON, *settings], "run": run, "resume": resume and str(resume)}


def evaluations(out: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / run / "evaluations.jsonl").read_text().splitlines()]


def test_equals_plain_training_and_going_on_is_exact(dataset: Path, tmp_path: Path) -> None:
    saving = ["checkpoint.every=1", "checkpoint.keep_last=100", "checkpoint.full_every=4"]
    jobs = [
        job(*saving, run="whole"),
        job("mode=synchronous", "checkpoint.enabled=false", run="synchronous"),
        job("evaluation.enabled=false", "checkpoint.enabled=false", run="off"),
    ]
    finish_all(4, dataset, tmp_path, jobs)
    whole = summary_of(tmp_path / "whole")
    model = ModelConfig(embedding_dim=8)
    assert whole["model_digest"] == plain_digest(dataset, 2, 1, 50, 0.5, model, ends=ENDS)
    assert whole["model_digest"] == summary_of(tmp_path / "off")["model_digest"]
    assert whole["model_digest"] == summary_of(tmp_path / "synchronous")["model_digest"]
    found = evaluations(tmp_path, "whole")
    assert [(line["iteration"], line.get("window"), line["num_samples"]) for line in found] == [
        (0, [0, 24], 130), (3, [24, 48], 7), (4, [48, 72], 375), (12, [96, 120], 1), (13, [120, 144], 487),
        (23, None, NUM_SAMPLES),
    ]  # fmt: skip
    assert evaluations(tmp_path, "synchronous") == found
    assert whole["evaluations"]["windows"]["number"] == 5

    saved = saved_iterations(tmp_path, "whole")
    points = {max(at for at in saved if at <= limit) for limit in (2, 3, 4, 8, 12, 17, 23)}
    goes_on = [job(run=f"from-{at}", resume=iteration(tmp_path, "whole", at)) for at in sorted(points)]
    finish_all(4, dataset, tmp_path, goes_on)
    for going_on in goes_on:
        run = going_on["run"]
        for name in ("model_digest", "validation_auc", "loss", "rows_touched", "iterations"):
            assert summary_of(tmp_path / run)[name] == whole[name], (run, name)
        assert evaluations(tmp_path, run) == found, run
        assert losses(tmp_path, run) == losses(tmp_path, "whole"), run


def test_data_that_cannot_be_trained_in_time_order(dataset: Path, small_dataset: Path, tmp_path: Path) -> None:
    done = run_ranks(3, command(small_dataset, tmp_path / "run", *COMMON), timeout=START_SECONDS)
    finish(done, EXIT_INVALID)
    assert "training.order is time, but its samples have no times; import it with a schema file that" in done.stderr
    shutil.copytree(dataset, tmp_path / "data")
    shards = tmp_path / "data" / "train"
    (shards / "shard-00000.h5").rename(shards / "x.h5")
    (shards / "shard-00001.h5").rename(shards / "shard-00000.h5")
    (shards / "x.h5").rename(shards / "shard-00001.h5")
    done = run_ranks(3, command(tmp_path / "data", tmp_path / "run", *COMMON), timeout=START_SECONDS)
    finish(done, EXIT_INVALID)
    assert "shard-00001.h5: sample 0: hour is 0 after " in done.stderr
    assert "but samples must be in time order" in done.stderr
