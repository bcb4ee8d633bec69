"""Sequences end to end: the numbers of plain PyTorch, whatever the cache, the blocks and the start."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.trainer.models import SEQUENCE_MODELS
from tests.integration import sequence_training
from tests.integration.jobs import summary_of
from tests.integration.sequence_training import (
    DIM,
    SampledSoftmax,
    attention,
    din,
    make_sequence_dataset,
    plain_digest,
    towers,
)
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
EPOCHS, BATCH_SIZE, RATE, LENGTH = 2, 50, 0.5, 7
OWN = [f"model.factory={sequence_training.__name__}:build"]
COMMON = [f"training.epochs={EPOCHS}", f"training.batch_size={BATCH_SIZE}", f"training.learning_rate={RATE}"]
COMMON += ["training.threads=1", f"model.embedding_dim={DIM}", f"tables.clicked.max_length={LENGTH}"]
SMALL_RATE = 0.05
TOWERS = ["model.name=two_tower", f"training.learning_rate={SMALL_RATE}"]
BLOCKS = ["training.blocks=2"]
OPTIMIZERS = ["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sequence_dataset(tmp_path_factory.mktemp("data") / "sequences")


def run_jobs(dataset: Path, out: Path, num_ranks: int, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return summaries by name. A job has `set` and perhaps `resume`."""
    written = [{**job, "set": [*COMMON, *job["set"]], "run": name} for name, job in jobs.items()]
    (out / "jobs.json").write_text(json.dumps(written))
    done = run_ranks(num_ranks, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "codes.json").read_text()) == [0] * len(jobs), done.stdout + done.stderr
    return {name: summary_of(out / name) for name in jobs}


def test_equals_plain_training(dataset: Path, tmp_path: Path) -> None:
    modes = ("cached", "synchronous")
    jobs: dict[str, dict[str, Any]] = {mode: {"set": [*OWN, f"mode={mode}"]} for mode in modes}
    moved = [*OWN, "oracle.placement=locality", "training.shuffle_block=64", "cache.rows=300", "lookahead.window=8"]
    jobs |= {f"moved {mode}": {"set": [*moved, "lookahead.prefetch_depth=1", f"mode={mode}"]} for mode in modes}
    pooled = [
        "model.name=dcn",
        "training.learning_rate=0.05",
        "tables.clicked.pooling=mean",
        "tables.action.pooling=sum",
    ]
    jobs |= {f"pooled {mode}": {"set": [*pooled, f"mode={mode}"]} for mode in modes}
    jobs |= {"din": {"set": ["model.name=din"]}}
    blocks = [*OWN, *BLOCKS]
    jobs |= {"blocks": {"set": [*blocks, "checkpoint.every=5", "checkpoint.keep_last=9"]}}
    jobs |= {"on": {"set": blocks, "resume": str(tmp_path / "blocks" / "checkpoints" / f"iteration-{5:012d}")}}
    jobs |= {"towers": {"set": TOWERS}}
    places = [*TOWERS, *moved[1:], "lookahead.prefetch_depth=1", "model.item_features=[item,tags]"]
    jobs |= {f"moved towers {mode}": {"set": [*places, f"mode={mode}"]} for mode in modes}
    jobs |= {"blocks of towers": {"set": [*TOWERS, *BLOCKS, "checkpoint.every=5", "checkpoint.keep_last=9"]}}
    summaries = run_jobs(dataset, tmp_path, 4, jobs)
    expected = plain_digest(dataset, attention(), 2, EPOCHS, BATCH_SIZE, RATE, LENGTH)
    assert summaries["din"]["model_digest"] == plain_digest(dataset, din(), 2, EPOCHS, BATCH_SIZE, RATE, LENGTH)
    assert summaries["cached"]["model_digest"] == summaries["synchronous"]["model_digest"] == expected
    assert summaries["cached"]["rows_fetched"] < summaries["synchronous"]["rows_fetched"]
    assert summaries["cached"]["validation_auc"] == summaries["synchronous"]["validation_auc"]
    softmax = plain_digest(dataset, towers(), 2, EPOCHS, BATCH_SIZE, SMALL_RATE, LENGTH, SampledSoftmax())
    assert summaries["towers"]["model_digest"] == softmax
    for name in ("moved", "pooled", "moved towers"):
        cached, synchronous = (summaries[f"{name} {mode}"] for mode in modes)
        assert cached["model_digest"] == synchronous["model_digest"], name
        assert cached["validation_auc"] == synchronous["validation_auc"], name
    assert summaries["on"]["model_digest"] == summaries["blocks"]["model_digest"]
    half = str(tmp_path / "blocks of towers" / "checkpoints" / f"iteration-{5:012d}")
    jobs = {"alone": {"set": blocks}, "towers alone": {"set": [*TOWERS, *BLOCKS]}}
    jobs |= {"towers on": {"set": [*TOWERS, *BLOCKS], "resume": half}}
    alone = run_jobs(dataset, tmp_path, 3, jobs)
    assert alone["alone"]["model_digest"] == summaries["blocks"]["model_digest"]
    for name in ("towers alone", "towers on"):
        assert alone[name]["model_digest"] == summaries["blocks of towers"]["model_digest"], name
        assert alone[name]["validation_auc"] == summaries["blocks of towers"]["validation_auc"], name


def test_every_model_with_every_optimizer_equals_itself_without_a_cache(dataset: Path, tmp_path: Path) -> None:
    pairs = list(itertools.product(SEQUENCE_MODELS, OPTIMIZERS))
    short = ["training.learning_rate=0.05", "training.epochs=1", "checkpoint.enabled=false", "evaluation.enabled=false"]
    small = ["lookahead.window=3", "lookahead.prefetch_depth=2"]
    jobs = {
        f"{model} {optimizer} {mode}": {
            "set": [*short, *small, f"model.name={model}", f"row_optimizer.name={optimizer}", f"mode={mode}"]
        }
        for model, optimizer in pairs
        for mode in ("cached", "synchronous")
    }
    summaries = run_jobs(dataset, tmp_path, 4, jobs)
    digests = {}
    for pair in pairs:
        cached, synchronous = (summaries[f"{' '.join(pair)} {mode}"] for mode in ("cached", "synchronous"))
        assert cached["model_digest"] == synchronous["model_digest"], pair
        digests[pair] = cached["model_digest"]
    assert len(set(digests.values())) == len(pairs)
