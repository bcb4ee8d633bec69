"""Bags of ids and shared tables, end to end: the numbers of plain PyTorch, whatever the cache and the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.export import complete_rows, export
from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from tests.integration.jobs import digest_of, summary_of
from tests.integration.ragged_training import MEAN, bag_by_loops, bag_by_torch, make_ragged_dataset, train_plainly
from tests.launch import run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
EPOCHS, BATCH_SIZE = 2, 37
COMMON = [f"training.epochs={EPOCHS}", f"training.batch_size={BATCH_SIZE}", "training.learning_rate=0.5"]
COMMON += ["training.threads=1", "model.embedding_dim=8", f"tables.{MEAN}.pooling=mean"]
EVERY = ["checkpoint.every=8", "checkpoint.keep_last=100"]
SMALL = ["lookahead.window=8", "lookahead.prefetch_depth=1", "cache.rows=300"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ragged_dataset(tmp_path_factory.mktemp("data") / "ragged")


def run_jobs(dataset: Path, out: Path, num_ranks: int, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Summaries by name; a job has `set` and `resume`."""
    written = [{**job, "set": [*COMMON, *job["set"]], "run": name} for name, job in jobs.items()]
    (out / "jobs.json").write_text(json.dumps(written))
    done = run_ranks(num_ranks, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "codes.json").read_text()) == [0] * len(jobs), done.stdout + done.stderr
    return {name: summary_of(out / name) for name in jobs}


def config_of(name: str) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, "embedding_dim": 8})


def test_equals_plain_training(dataset: Path, tmp_path: Path) -> None:
    names = ["dlrm", "deepfm", "wide_deep"]
    jobs = {f"{name} {mode}": {"set": [f"model.name={name}", f"mode={mode}"]}
            for name in names for mode in ("cached", "synchronous")}  # fmt: skip
    jobs |= {"small": {"set": SMALL}, "direct": {"set": ["transport=direct"]}}
    summaries = run_jobs(dataset, tmp_path, 4, jobs)
    for name in names:
        plain = train_plainly(dataset, 2, EPOCHS, BATCH_SIZE, 0.5, config_of(name), bag_by_loops)
        cached, synchronous = summaries[f"{name} cached"], summaries[f"{name} synchronous"]
        assert cached["model_digest"] == synchronous["model_digest"] == plain.digest()
        assert cached["validation_auc"] == synchronous["validation_auc"] > 0.6
        assert cached["rows_fetched"] < synchronous["rows_fetched"]
    for name in ("small", "direct"):
        assert summaries[name]["model_digest"] == summaries["dlrm cached"]["model_digest"]
    plain = train_plainly(dataset, 2, EPOCHS, BATCH_SIZE, 0.5, config_of("dlrm"), bag_by_torch)
    checkpoint = Checkpoint.open(tmp_path / "dlrm cached" / "checkpoints")
    tables = list(complete_rows(checkpoint, rows_per_piece=10_000))
    assert [name for name, _ in tables] == ["user", "item", "tags"]
    for (_, rows), table in zip(tables, plain.tables, strict=True):
        torch.testing.assert_close(torch.from_numpy(rows), table, rtol=1e-3, atol=1e-5)


def test_going_on_equals_never_stopping(dataset: Path, tmp_path: Path) -> None:
    """With samples that are placed and shuffled."""
    moved = ["oracle.placement=locality", "training.shuffle_block=64"]
    jobs: dict[str, dict[str, Any]] = {
        "whole": {"set": [*moved, *EVERY]},
        "synchronous": {"set": [*moved, "mode=synchronous"]},
        "contiguous": {"set": moved[1:]},
    }
    checkpoints = tmp_path / "whole" / "checkpoints"
    first = str(checkpoints / f"iteration-{8:012d}")  # later ones may have found it being written
    jobs["on"] = {"set": moved, "resume": first}
    jobs["on, small"] = {"set": [*moved, *SMALL], "resume": first}
    summaries = run_jobs(dataset, tmp_path, 4, jobs)
    whole = summaries["whole"]
    assert digest_of(checkpoints) == whole["model_digest"]
    for name in ("synchronous", "on", "on, small"):
        for field in ("model_digest", "validation_auc", "validation_log_loss"):
            assert summaries[name][field] == whole[field], (name, field)
    assert whole["rows_pushed"] < summaries["contiguous"]["rows_pushed"]


def without_labels(dataset: Path, path: Path) -> Path:
    """The validation split of a data set, without its labels."""
    labelled = open_dataset(dataset)
    with DatasetWriter(path, labelled.schema.model_copy(update={"labelled": False})) as writer:
        for batch in labelled.validation.batches(100):
            writer.append("validation", batch)
    return path


def test_evaluation_and_prediction(dataset: Path, tmp_path: Path) -> None:
    (trained,) = run_jobs(dataset, tmp_path, 4, {"run": {"set": []}}).values()
    output = tmp_path / "clicks.npy"
    arguments = [str(tmp_path / "run" / "checkpoints"), "--data", str(dataset), "--run-dir", str(tmp_path / "predict")]
    done = run_ranks(3, ["-m", "bagpipe_hpc", "predict", *arguments, "--output", str(output)], timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary_of(tmp_path / "predict")["validation_auc"] == pytest.approx(trained["validation_auc"], abs=1e-6)
    assert np.load(output).shape == (500,)
    unlabelled = without_labels(dataset, tmp_path / "unlabelled")
    others = [arguments[0], "--data", str(unlabelled), "--run-dir", str(tmp_path / "others")]
    done = run_ranks(3, ["-m", "bagpipe_hpc", "predict", *others, "--output", str(tmp_path / "others.npy")], timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500 samples predicted; they have no labels" in done.stdout
    assert np.array_equal(np.load(tmp_path / "others.npy"), np.load(output))
    assert summary_of(tmp_path / "others")["validation_log_loss"] is None
    # Once more into the same directory, in one process.
    again = ["-m", "bagpipe_hpc", "predict", *others, "--output", str(tmp_path / "again.npy")]
    done = run_python(again, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), np.load(output), rtol=1e-5)
    refused = run_ranks(3, ["-m", "bagpipe_hpc", "train", *others[1:]], timeout=90)
    assert refused.returncode == 2
    assert refused.stderr.count("its samples have no labels, which training needs") == 1, refused.stderr

    wrong = ["--set", f"tables.{MEAN}.pooling=sum", "--output", str(tmp_path / "wrong.npy")]
    refused = run_ranks(3, ["-m", "bagpipe_hpc", "predict", *arguments, *wrong], timeout=90)
    assert refused.returncode == 2
    assert "pooling is 'mean' in the checkpoint, 'sum' in the job" in refused.stderr


RATES, DIMS = {"tags": 0.05, "user": 1.0}, {"user": 3, "item": 5}
OWN_SETTINGS = [f"tables.{name}.learning_rate={rate}" for name, rate in RATES.items()]
OWN_SETTINGS += [f"tables.{name}.embedding_dim={dim}" for name, dim in DIMS.items()]


def test_tables_with_rates_and_dims_of_their_own(dataset: Path, tmp_path: Path) -> None:
    models = {name: [f"model.name={name}"] for name in ("dcn", "dcn_v2")}
    optimizers = ("momentum", "adagrad", "rowwise_adagrad", "adam")
    ways = models | {name: ["model.name=wide_deep", f"row_optimizer.name={name}"] for name in optimizers}
    jobs: dict[str, dict[str, Any]] = {
        f"{name} {mode}": {"set": [*way, *OWN_SETTINGS, f"mode={mode}"]}
        for name, way in ways.items()
        for mode in ("cached", "synchronous")
    }
    jobs["saving"] = {"set": [*EVERY, *models["dcn"], *OWN_SETTINGS]}
    first = str(tmp_path / "saving" / "checkpoints" / f"iteration-{8:012d}")
    jobs["on"] = {"set": [*models["dcn"], *OWN_SETTINGS, *SMALL], "resume": first}
    digests = {name: summary["model_digest"] for name, summary in run_jobs(dataset, tmp_path, 4, jobs).items()}
    for name in ways:
        assert digests[f"{name} cached"] == digests[f"{name} synchronous"], name
    assert digests["on"] == digests["saving"] == digests["dcn cached"]
    plain = {
        name: train_plainly(dataset, 2, EPOCHS, BATCH_SIZE, 0.5, config_of(name), bag_by_loops, RATES, DIMS)
        for name in models
    }
    for name, trained in plain.items():
        assert digests[f"{name} cached"] == trained.digest(), name
    tables = dict(complete_rows(Checkpoint.open(tmp_path / "saving" / "checkpoints"), rows_per_piece=10_000))
    for rows, table in zip(tables.values(), plain["dcn"].tables, strict=True):
        assert torch.equal(torch.from_numpy(rows), table)
    export(Checkpoint.open(tmp_path / "saving" / "checkpoints"), tmp_path / "model.pt", "torch")
    exported = torch.load(tmp_path / "model.pt", weights_only=True)
    for name, table in zip(tables, plain["dcn"].tables, strict=True):
        assert torch.equal(exported[f"embeddings.{name}.weight"], table)


def test_a_checkpoint_of_other_tables_is_refused(dataset: Path, tmp_path: Path) -> None:
    saved = [*COMMON, "model.name=dcn", "training.iterations=2", "tables.user.embedding_dim=3"]
    wrong = {
        "tables.user.embedding_dim=4": "embedding_dim is 3 in the checkpoint, 4 in the job",
        "tables.user.learning_rate=0.1": "model.row_state has 0 entries in the checkpoint, 1 in the job",
        "tables.tags.pooling=sum": "pooling is 'mean' in the checkpoint, 'sum' in the job",
    }
    path = str(tmp_path / "saved" / "checkpoints")
    jobs: list[dict[str, Any]] = [{"set": saved, "run": "saved"}]
    jobs += [{"set": [*saved, setting], "run": f"wrong{n}", "resume": path} for n, setting in enumerate(wrong)]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(3, [PROGRAM, str(dataset), str(tmp_path), str(tmp_path / "jobs.json")], timeout=120)
    assert json.loads((tmp_path / "codes.json").read_text()) == [0, 2, 2, 2], done.stdout + done.stderr
    for words in wrong.values():
        assert words in done.stderr
