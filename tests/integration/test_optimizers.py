"""Every model with every row optimizer: cached equals synchronous, to the bit, and so does going on from a checkpoint.

The digest covers dense parameters and whole rows, optimizer state included.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import ModelConfig, RowOptimizerConfig
from bagpipe_hpc.data.dataset import DatasetWriter
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.models import MODELS as MODELS_OF_VECTORS
from tests.integration.jobs import summary_of
from tests.integration.plain_training import ROW_OPTIMIZERS, plain_digest
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
BATCH_SIZE = 130  # 8 iterations, the last one short
COMMON = [f"training.batch_size={BATCH_SIZE}", "training.learning_rate=0.05", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "evaluation.enabled=false", "checkpoint.enabled=false"]
CACHED = ["lookahead.window=3", "lookahead.prefetch_depth=2"]  # rows leave and come back, all overlapped
MODELS = tuple(MODELS_OF_VECTORS)  # test_sequences.py has the others
OPTIMIZERS = get_args(RowOptimizerConfig.model_fields["name"].annotation)
PAIRS = list(itertools.product(MODELS, OPTIMIZERS))
WARM_UP = ["schedule.warm_up_iterations=3", "schedule.decay=cosine", "schedule.decay_iterations=4"]
DENSE_ADAM = ["dense_optimizer.name=adam", "dense_optimizer.learning_rate=0.01", "row_optimizer.name=adagrad"]
WAYS = [
    [],
    WARM_UP,
    DENSE_ADAM,
    [*DENSE_ADAM, *WARM_UP, "dense_optimizer.clip_norm=0.05", "training.precision=bfloat16"],
    ["dense_optimizer.arguments.momentum=0.9", "dense_optimizer.clip_norm=0.05"],
    ["dense_optimizer.name=Adagrad", "row_optimizer.clip_value=1e-4", "row_optimizer.learning_rate=0.5"],
]
STATEFUL = {name: [f"row_optimizer.name={name}"] for name in OPTIMIZERS if name != "sgd"}
STATEFUL["dense adam"] = [*DENSE_ADAM, *WARM_UP]
INITIAL = "row_optimizer.initial_accumulator_value=0.1"
SAVING = ["checkpoint.enabled=true", "checkpoint.every=4", "checkpoint.keep_last=9"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What caser needs: user, candidate, three last items."""
    path = tmp_path_factory.mktemp("data") / "sequences"
    names = ("user", "candidate", "item0", "item1", "item2")
    tables = tuple(TableSchema(name=name, num_embeddings=300) for name in names)
    random = np.random.default_rng(2)
    ids = (random.random((1_000, 5)) ** 3 * 300).astype(np.int64)
    labels = (ids[:, 1] % 2).astype(np.float32)
    with DatasetWriter(path, Schema(dense=(), tables=tables), samples_per_shard=500) as writer:
        writer.append("train", Batch(labels=labels, dense=np.empty((1_000, 0), np.float32), ids=ids))
    return path


def run_jobs(num_ranks: int, dataset: Path, out: Path, jobs: list[dict[str, Any]]) -> None:
    (out / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(num_ranks, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "codes.json").read_text()) == [0] * len(jobs), done.stdout + done.stderr


def digest(out: Path, run: str) -> str:
    found: str = summary_of(out / run)["model_digest"]
    return found


def digests_in_both_modes(small_dataset: Path, out: Path, jobs: list[dict[str, Any]]) -> list[str]:
    """Digests of the jobs at 2 trainers, which must be the same cached and synchronous."""
    modes = {"cached": CACHED, "synchronous": ["mode=synchronous"]}
    runs = [
        {**job, "run": f"{mode}-{index}", "set": [*COMMON, *settings, *job["set"]]}
        for mode, settings in modes.items()
        for index, job in enumerate(jobs)
    ]
    run_jobs(4, small_dataset, out, runs)
    for index, job in enumerate(jobs):
        assert digest(out, f"cached-{index}") == digest(out, f"synchronous-{index}"), job
    return [digest(out, f"cached-{index}") for index in range(len(jobs))]


def test_every_model_with_every_optimizer(small_dataset: Path, sequences: Path, tmp_path: Path) -> None:
    jobs = [
        {
            "set": [f"model.name={model}", f"row_optimizer.name={optimizer}"],
            "data": str(sequences if model == "caser" else small_dataset),
        }
        for model, optimizer in PAIRS
    ]
    digests = dict(zip(PAIRS, digests_in_both_modes(small_dataset, tmp_path, jobs), strict=True))
    assert len(set(digests.values())) == len(PAIRS)
    for model, optimizer in itertools.product(("dlrm", "deepfm"), ROW_OPTIMIZERS):
        config = ModelConfig.model_validate({"name": model, "embedding_dim": 8})
        plain = plain_digest(small_dataset, 2, 1, BATCH_SIZE, 0.05, config, optimizer)
        assert digests[model, optimizer] == plain, f"{model} with {optimizer} is not what PyTorch does"


def test_other_ways_to_train(small_dataset: Path, sequences: Path, tmp_path: Path) -> None:
    """Dense optimizers, clipping, schedules, bfloat16 with every model."""
    jobs: list[dict[str, Any]] = [{"set": settings} for settings in WAYS]
    for model in MODELS:
        dataset = sequences if model == "caser" else small_dataset
        jobs.append({"set": [f"model.name={model}", "training.precision=bfloat16"], "data": str(dataset)})
    assert len(set(digests_in_both_modes(small_dataset, tmp_path, jobs))) == len(jobs)


def test_state_goes_on_from_a_checkpoint(small_dataset: Path, tmp_path: Path) -> None:
    """With another lookahead, in synchronous mode, and on another number of servers."""
    others = {"longer": ["lookahead.window=20", "lookahead.prefetch_depth=4"], "synchronous": ["mode=synchronous"]}
    jobs, moved = [], []
    for name, optimizer in STATEFUL.items():
        settings = [*COMMON, *CACHED, INITIAL, *optimizer]
        middle = str(tmp_path / name / "checkpoints" / "iteration-000000000004")
        jobs.append({"run": name, "set": [*settings, *SAVING]})
        jobs += [{"run": f"{name}-{o}", "set": [*settings, *more], "resume": middle} for o, more in others.items()]
        moved.append({"run": f"{name}-moved", "set": [*settings, "roles.servers=2"], "resume": middle})
    run_jobs(4, small_dataset, tmp_path, jobs)
    run_jobs(5, small_dataset, tmp_path, moved)
    for name in STATEFUL:
        for other in (*others, "moved"):
            assert summary_of(tmp_path / f"{name}-{other}")["first_iteration"] == 4
            assert digest(tmp_path, f"{name}-{other}") == digest(tmp_path, name), (name, other)
