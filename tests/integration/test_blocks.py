"""With `training.blocks`, one model to the bit on any number of trainers and servers, cached or synchronous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.config import ModelConfig
from tests.integration.conftest import make_dataset
from tests.integration.jobs import command, summary_of
from tests.integration.plain_training import plain_digest
from tests.integration.programs import own_models
from tests.integration.ragged_training import MEAN, bag_by_loops, make_ragged_dataset, train_plainly
from tests.integration.test_own_model import job as own_job
from tests.integration.test_own_model import train as train_own
from tests.integration.test_restart import finish_all, job, losses
from tests.launch import run_ranks

BLOCKS = "training.blocks=8"
BFLOAT16 = "training.precision=bfloat16"
RAGGED = f"tables.{MEAN}.pooling=mean"
KINDS = {
    "DLRM, Adagrad, locality": ["row_optimizer.name=adagrad", "oracle.placement=locality"],
    "DeepFM, Adam, shuffled": ["model.name=deepfm", "row_optimizer.name=adam", "training.shuffle_block=64"],
    "own model with dropout": [f"model.factory={own_models.__name__}:noisy", "dense_optimizer.clip_norm=0.1"],
    # Kernels of MKL for such sizes give other bits where their arguments are aligned in another way.
    "13 dense features, DeepFM": ["model.name=deepfm", "training.batch_size=100"],
    "13 dense features, Wide & Deep": ["model.name=wide_deep", "training.batch_size=203"],
    "ragged, locality": ["model.name=wide_deep", RAGGED, "oracle.placement=locality"],
    "ragged, bfloat16": [RAGGED, "row_optimizer.name=rowwise_adagrad", BFLOAT16],
}
SETTINGS = ["training.epochs=1", "evaluation.every=10", "lookahead.window=8", "lookahead.prefetch_depth=2"]
TOPOLOGIES = [(1, 3), (2, 1), (4, 3), (8, 1)]


@pytest.fixture(scope="module")
def ragged_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ragged_dataset(tmp_path_factory.mktemp("data") / "ragged")


@pytest.fixture(scope="module")
def datasets(small_dataset: Path, ragged_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The data set of each kind."""
    dense = make_dataset(tmp_path_factory.mktemp("data") / "dense", num_dense=13)
    others = {"ragged": ragged_dataset, "13 dense features": dense}
    return [others.get(kind.split(",")[0], small_dataset) for kind in KINDS]


def results(datasets: list[Path], out: Path, num_trainers: int, num_servers: int, modes: list[str]) -> list[Any]:
    """How the model of each kind came out, mode by mode."""
    out.mkdir()
    topology = f"roles.servers={num_servers}"
    jobs = [
        job(*SETTINGS, BLOCKS, topology, *settings, f"mode={mode}", run=f"{kind} {mode}") | {"data": str(data)}
        for mode in modes
        for (kind, settings), data in zip(KINDS.items(), datasets, strict=True)
    ]
    finish_all(1 + num_servers + num_trainers, datasets[0], out, jobs)
    return [how_it_came_out(out / each["run"]) for each in jobs]


def how_it_came_out(run_dir: Path) -> Any:
    """What must not depend on the numbers of ranks: the model, all losses, the evaluations."""
    summary = summary_of(run_dir)
    evaluation = summary["validation_auc"], summary["validation_log_loss"]
    return summary["model_digest"], evaluation, losses(run_dir.parent, run_dir.name)


@pytest.fixture(scope="module")
def expected(datasets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one trainer and one server make of it, synchronous."""
    found = results(datasets, tmp_path_factory.mktemp("blocks") / "one", 1, 1, ["synchronous"])
    assert len({digest for digest, *_ in found}) == len(KINDS)
    return found


@pytest.mark.parametrize(("num_trainers", "num_servers"), TOPOLOGIES)
def test_one_model_on_any_number_of_trainers(
    datasets: list[Path], tmp_path: Path, expected: list[Any], num_trainers: int, num_servers: int
) -> None:
    modes = ["cached", "synchronous"]
    found = results(datasets, tmp_path / "many", num_trainers, num_servers, modes)
    assert found == expected * len(modes)


def test_one_trainer_with_two_blocks_trains_as_plain_pytorch_with_two_shares(
    small_dataset: Path, ragged_dataset: Path, tmp_path: Path
) -> None:
    """With two, a tree and ascending order are the same addition."""
    two, one_hot = ["training.epochs=1", "training.blocks=2"], ["training.batch_size=37"]
    jobs = [
        job(*two, *one_hot, run="one-hot"),
        job(*two, *one_hot, RAGGED, run="ragged") | {"data": str(ragged_dataset)},
    ]
    finish_all(3, small_dataset, tmp_path, jobs)
    config = ModelConfig.model_validate({"name": "dlrm", "embedding_dim": 8})
    plain = plain_digest(small_dataset, 2, 1, 37, learning_rate=0.5, config=config)
    assert summary_of(tmp_path / "one-hot")["model_digest"] == plain
    plain = train_plainly(ragged_dataset, 2, 1, 37, 0.5, config, bag_by_loops).digest()
    assert summary_of(tmp_path / "ragged")["model_digest"] == plain


def test_loops_of_ones_own(small_dataset: Path, tmp_path: Path) -> None:
    jobs = [
        own_job("train_by_tables", "noisy", BLOCKS),
        own_job("train_by_logits", "noisy", BLOCKS, "cache.rows=260", "lookahead.prefetch_depth=1"),
        own_job("run", "noisy", BLOCKS),
        own_job("train_by_logits", "dlrm", BLOCKS, BFLOAT16),
        own_job("run", None, BLOCKS, BFLOAT16),
    ]
    digests = []
    for num_trainers in (1, 2, 4):
        out = tmp_path / str(num_trainers)
        out.mkdir()
        digests.append([summary["model_digest"] for summary in train_own(small_dataset, out, num_trainers, jobs)])
    tables, logits, run, *in_bfloat16 = digests[0]
    assert tables == logits == run
    assert len({run, *in_bfloat16}) == 2
    assert digests == digests[:1] * 3


def test_early_stopping_comes_at_the_same_iteration(small_dataset: Path, tmp_path: Path) -> None:
    stopping = ["evaluation.every=8", "evaluation.early_stopping_patience=2", "evaluation.min_improvement=10"]
    found = []
    for num_trainers in (1, 2, 4):
        run = f"on {num_trainers}"
        finish_all(2 + num_trainers, small_dataset, tmp_path, [job(BLOCKS, *stopping, run=run)])
        found.append(how_it_came_out(tmp_path / run))
    assert found == found[:1] * 3
    assert len(found[0][2]) < 60  # iterations of a run that is not stopped


def test_a_job_that_loses_trainers_and_gets_them_back_ends_with_the_same_model(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Every start has another number of trainers and of servers."""
    settings = [BLOCKS, *KINDS["DLRM, Adagrad, locality"], "training.shuffle_block=64", "checkpoint.every=10"]
    settings += ["checkpoint.keep_last=9", "evaluation.every=15"]
    starts = [(4, 1, 20), (1, 3, 35), (2, 1, 60)]
    latest: Path | None = None
    for number, (num_trainers, num_servers, end) in enumerate(starts):
        start = [*settings, f"roles.servers={num_servers}", f"training.iterations={end}"]
        run = f"start {number}"
        finish_all(1 + num_servers + num_trainers, small_dataset, tmp_path, [job(*start, run=run, resume=latest)])
        latest = tmp_path / run / "checkpoints"
    finish_all(4, small_dataset, tmp_path, [job(*settings, "training.iterations=60", run="undisturbed")])
    assert how_it_came_out(tmp_path / run) == how_it_came_out(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("num_ranks", "setting", "message"),
    [
        (5, "training.blocks=8", "it may be 1, 2, 4, 8, but this job has 3 trainers"),
        (4, "training.blocks=6", "training.blocks is 6; give a power of two, such as 4 or 8"),
        (4, "dense.backend=horovod", "set dense.backend to mpi or leave it out"),
        (4, "training.threads=null", "set training.threads, too"),
        (4, "training.wire_dtype=float16", "what is rounded between trainers depends on their number"),
    ],
)
def test_what_contradicts_blocks_is_refused(
    small_dataset: Path, tmp_path: Path, num_ranks: int, setting: str, message: str
) -> None:
    arguments = command(small_dataset, tmp_path / "run", BLOCKS, "training.threads=1", setting)
    done = run_ranks(num_ranks, arguments, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
