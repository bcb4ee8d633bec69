"""Several labels, missing ones, sample weights and groups, end to end: the numbers of plain PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.dataset import open_dataset
from bagpipe_hpc.oracle.metrics import Targets, evaluate_predictions
from tests.integration.jobs import summary_of
from tests.integration.labelled_training import NUM_SAMPLES, SCHEMA, WEIGHTS, make_labelled_dataset, plain_digest
from tests.launch import run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
EPOCHS, BATCH_SIZE, RATE = 3, 64, 0.25
COMMON = [f"training.epochs={EPOCHS}", f"training.batch_size={BATCH_SIZE}", f"training.learning_rate={RATE}"]
COMMON += ["training.threads=1", "model.embedding_dim=8"]
COMMON += [f"labels.{name}.weight={weight}" for name, weight in WEIGHTS.items()]
MODELS = ["dlrm", "deepfm", "wide_deep", "dcn_v2", "mmoe"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_dataset(tmp_path_factory.mktemp("data") / "labelled")


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the runs of all jobs, with two trainers."""
    out = tmp_path_factory.mktemp("runs")
    jobs: dict[str, list[str]] = {
        f"{name} {mode}": [f"model.name={name}", f"mode={mode}"]
        for name in MODELS
        for mode in ("cached", "synchronous")
    }
    moved = ["training.shuffle_block=64", "oracle.placement=locality", "training.precision=bfloat16"]
    jobs |= {f"moved {mode}": [*moved, f"mode={mode}"] for mode in ("cached", "synchronous")}
    jobs["blocks"] = ["training.blocks=2"]
    jobs["stars"] = [
        "evaluation.every=10",
        "evaluation.label=stars",
        "evaluation.metric=mse",
        "checkpoint.keep_best=true",
    ]
    written: list[dict[str, Any]] = [{"set": [*COMMON, *settings], "run": name} for name, settings in jobs.items()]
    (out / "jobs.json").write_text(json.dumps(written))
    done = run_ranks(4, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "codes.json").read_text()) == [0] * len(jobs), done.stdout + done.stderr
    return out


@pytest.mark.parametrize("model", MODELS)
def test_equals_plain_training(dataset: Path, runs: Path, model: str) -> None:
    config = ModelConfig.model_validate({"name": model, "embedding_dim": 8})
    expected = plain_digest(dataset, 2, EPOCHS, BATCH_SIZE, RATE, config)
    cached, synchronous = (summary_of(runs / f"{model} {mode}") for mode in ("cached", "synchronous"))
    assert cached["model_digest"] == synchronous["model_digest"] == expected
    assert cached["rows_fetched"] < synchronous["rows_fetched"]
    assert cached["validation_labels"] == synchronous["validation_labels"]
    assert list(cached["validation_labels"]) == ["click", "like", "stars"]
    assert cached["validation_auc"] == cached["validation_labels"]["click"]["auc"]
    if model == "dcn_v2":  # the others learn more slowly
        assert cached["validation_auc"] > 0.8


def test_cached_equals_synchronous_when_samples_move(runs: Path) -> None:
    cached, synchronous = (summary_of(runs / f"moved {mode}") for mode in ("cached", "synchronous"))
    assert cached["model_digest"] == synchronous["model_digest"]
    assert cached["validation_labels"] == synchronous["validation_labels"]


def test_the_number_of_trainers_does_not_matter_with_blocks(dataset: Path, runs: Path, tmp_path: Path) -> None:
    settings = [f"--set={setting}" for setting in [*COMMON, "training.blocks=2"]]
    command = ["-m", "bagpipe_hpc", "train", "--data", str(dataset), "--run-dir", str(tmp_path / "one"), *settings]
    done = run_ranks(3, command, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary_of(tmp_path / "one")["model_digest"] == summary_of(runs / "blocks")["model_digest"]


def test_evaluations_are_compared_by_the_label_of_the_settings(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "stars" / "evaluations.jsonl").read_text().splitlines()]
    assert all(line["mse"] == line["labels"]["stars"]["mse"] for line in lines)
    assert all(0 < line["labels"]["click"]["grouped_auc"] < 1 for line in lines)
    best = min(lines, key=lambda line: line["mse"])
    evaluations = summary_of(runs / "stars")["evaluations"]
    assert (evaluations["best"], evaluations["best_iteration"]) == (best["mse"], best["iteration"])


def test_predictions_have_a_column_for_each_label(dataset: Path, runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.npy"
    checkpoints = runs / "dlrm cached" / "checkpoints"
    command = ["-m", "bagpipe_hpc", "predict", str(checkpoints), "--data", str(dataset), "--output", str(output)]
    done = run_python(command, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    predictions = np.load(output)
    assert (predictions.shape, predictions.dtype) == ((NUM_SAMPLES, 3), np.float32)
    assert ((predictions[:, :2] > 0) & (predictions[:, :2] < 1)).all()
    batch = open_dataset(dataset).validation.read(0, NUM_SAMPLES)
    logits = predictions.copy()
    logits[:, :2] = np.log(predictions[:, :2] / (1 - predictions[:, :2]))
    found = evaluate_predictions(logits, Targets(batch.labels, batch.sample_weights, batch.groups), SCHEMA)
    expected = summary_of(runs / "dlrm cached")["validation_labels"]
    for name, metrics in found.labels.items():
        for field, value in expected[name].items():
            found_value = getattr(metrics, field)
            assert found_value is value is None or found_value == pytest.approx(value, rel=1e-4), (name, field)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["labels.buy.weight=2"], "labels.buy: the data set has no label of this name; it has click, like, stars"),
        (["labels.stars.loss=bce"], "stars is real-valued, and bce is for labels that are 0 or 1; set mse"),
        ([f"labels.{name}.weight=0" for name in WEIGHTS], "the weight of every label (click, like, stars) is 0"),
        (["evaluation.label=buy"], "evaluation.label = 'buy': the data set has no label of this name; it has click"),
        (
            [
                "evaluation.label=stars",
                "evaluation.every=5",
                "evaluation.early_stopping_patience=2",
                "lookahead.window=5",
            ],
            "evaluation.metric = 'auc': stars is real-valued; set evaluation.metric to mse",
        ),
        (["model.name=caser"], "has 3 labels: caser predicts one"),
    ],
)
def test_settings_that_contradict_the_data_are_refused(
    dataset: Path, tmp_path: Path, settings: list[str], said: str
) -> None:
    options = [f"--set={setting}" for setting in settings]
    command = ["-m", "bagpipe_hpc", "train", "--local", "--data", str(dataset), "--run-dir", str(tmp_path), *options]
    done = run_python(command, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
