"""Dynamic tables in whole jobs: the same model to the bit, cached or not, on other ranks, and stopped in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import DatasetWriter
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.exit_codes import EXIT_INVALID
from tests.integration.jobs import START_SECONDS, command, finish, summary_of
from tests.integration.test_restart import finish_all, iteration, losses, run_jobs, saved_iterations
from tests.launch import run_ranks

USERS = DynamicSchema(capacity=60, admit_after=2, at_capacity="oldest", expire_after="50 units", default_rows=3)
ITEMS = DynamicSchema(capacity=400)
SCHEMA = Schema(
    dense=("price",),
    tables=(
        TableSchema(name="user", num_embeddings=USERS.num_rows, dynamic=USERS),
        TableSchema(name="country", num_embeddings=7),
        TableSchema(name="item", num_embeddings=ITEMS.num_rows, dynamic=ITEMS),
        TableSchema(name="friend", num_embeddings=USERS.num_rows, shares="user"),
        TableSchema(name="seen", num_embeddings=ITEMS.num_rows, ragged=True, sequence=True, shares="item"),
    ),
    time="second",
)
COMMON = ["training.batch_size=50", "training.threads=1", "training.learning_rate=0.5", "lookahead.window=8"]
COMMON += ["training.blocks=4", "row_optimizer.name=adagrad", "model.name=din", "evaluation.every=11"]
Job = dict[str, Any]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which users come and go."""
    path = tmp_path_factory.mktemp("data") / "drift"
    random = np.random.default_rng(1)
    with DatasetWriter(path, SCHEMA, samples_per_shard=400) as writer:
        writer.append("train", _drifting(random, 0, 1500))
        writer.append("validation", _drifting(random, 1500, 500))
    return path


def _drifting(random: np.random.Generator, first: int, size: int) -> Batch:
    number = first + np.arange(size)
    users, friends = ((number // 4 - random.exponential(15, size)).astype(np.int64) * 2**40 - 5 for _ in range(2))
    ids = np.stack([users, random.integers(0, 7, size), -random.integers(0, 90, size), friends], axis=1)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 4, size))])
    seen = Bags(offsets, -random.integers(0, 90, offsets[-1]))
    labels = (users // 2**40 % 3 + random.random(size) > 1.5).astype(np.float32)
    dense = random.random((size, 1)).astype(np.float32)
    return Batch(labels, dense, ids, {"seen": seen}, times=number // 2)


def job(*settings: str, run: str, resume: Path | None = None) -> Job:
    return {"set": [*COMMON, *settings], "run": run, "resume": resume and str(resume)}


def test_the_same_model_in_every_way(dataset: Path, tmp_path: Path) -> None:
    off = "checkpoint.enabled=false"
    jobs = [
        job("checkpoint.every=1", "checkpoint.keep_last=100", "checkpoint.full_every=3", run="whole"),
        job("mode=synchronous", "transport=direct", off, run="synchronous"),
        job("lookahead.window=30", "lookahead.prefetch_depth=9", "oracle.threads=1", off, run="ahead"),
        job("cache.rows=250", "lookahead.prefetch_depth=1", "lookahead.window=3", off, run="small"),
        job("tables.user.at_capacity=error", run="full"),
    ]
    codes, output = run_jobs(4, dataset, tmp_path, jobs)
    assert codes == [0, 0, 0, 0, EXIT_INVALID], output
    whole = summary_of(tmp_path / "whole")
    for run in ("synchronous", "ahead", "small"):
        for name in ("model_digest", "loss", "rows_touched", "validation_auc", "dynamic_tables"):
            assert summary_of(tmp_path / run)[name] == whole[name], (run, name)
    users = whole["dynamic_tables"]["user"]
    assert users["expired"] > 0
    assert users["replaced"] > 0
    assert users["live"] == users["admitted"] - users["expired"] - users["replaced"] <= 60
    assert 0 < users["default_uses"] < users["uses"] == 3000

    saved = saved_iterations(tmp_path, "whole")
    points = sorted({max(at for at in saved if at <= limit) for limit in (5, 12, 23)})
    goes_on = [job("lookahead.window=20", run=f"from-{at}", resume=iteration(tmp_path, "whole", at)) for at in points]
    goes_on.append(job("roles.servers=2", run="one trainer", resume=iteration(tmp_path, "whole", points[1])))
    (last,) = saved_iterations(tmp_path, "full")
    goes_on.append(job("tables.user.at_capacity=oldest", run="emptied", resume=iteration(tmp_path, "full", last)))
    finish_all(4, dataset, tmp_path, goes_on)
    for going_on in goes_on:
        run = going_on["run"]
        for name in ("model_digest", "loss", "validation_auc", "dynamic_tables"):
            assert summary_of(tmp_path / run)[name] == whole[name], (run, name)
        assert losses(tmp_path, run) == losses(tmp_path, "whole"), run

    grown = job("tables.user.capacity=90", "tables.user.expire_after=never", run="grown", resume=goes_on[0]["resume"])
    finish_all(4, dataset, tmp_path, [{**grown, "resume": str(iteration(tmp_path, "whole", points[0]))}])
    assert summary_of(tmp_path / "grown")["dynamic_tables"]["user"]["live"] > 60


def test_a_full_table_ends_the_job(dataset: Path, tmp_path: Path) -> None:
    done = run_ranks(
        4, command(dataset, tmp_path / "run", *COMMON, "tables.user.at_capacity=error"), timeout=START_SECONDS
    )
    finish(done, EXIT_INVALID)
    assert "SIGTERM" not in done.stderr
    (last,) = saved_iterations(tmp_path, "run")
    assert last > 0
    assert f"error: table user has rows for 60 ids, and a new id of iteration {last + 1} finds none" in done.stderr
    saved = iteration(tmp_path, "run", last)
    assert f"all iterations before are saved in {saved}: go on with --resume auto" in done.stderr
