"""Whole jobs on a device that runs behind the host, in any order that the rules allow: the models of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bagpipe_hpc.exit_codes import EXIT_FAILURE, EXIT_INVALID
from bagpipe_hpc.trainer.device.gpus import num_gpus
from tests.integration.jobs import command, finish, summary_of
from tests.integration.ragged_training import MEAN, make_ragged_dataset
from tests.launch import run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "queued_jobs.py")
COMMON = ["training.epochs=1", "training.batch_size=37", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", f"tables.{MEAN}.pooling=mean", "training.device=cpu"]
COMMON += ["lookahead.window=8", "lookahead.prefetch_depth=2", "cache.rows=500"]
EVENTS = ["checkpoint.every=9", "evaluation.every=8", "evaluation.batch_size=40"]
SYNCHRONOUS = ["mode=synchronous"]
LATE = {"order": "late"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ragged_dataset(tmp_path_factory.mktemp("data") / "ragged")


def play(dataset: Path, out: Path, num_ranks: int, jobs: dict[str, dict[str, Any]]) -> str:
    """Play jobs, which have `set`, `device` and `resume`; returns what they say."""
    written = [{**job, "set": [*COMMON, *job["set"]], "run": name} for name, job in jobs.items()]
    (out / "jobs.json").write_text(json.dumps(written))
    done = run_ranks(num_ranks, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=200)
    codes = out / "codes.json"
    assert json.loads(codes.read_text() if codes.exists() else f"[{done.returncode}]") == [0] * len(jobs), (
        done.stdout + done.stderr
    )
    return done.stdout


def test_the_models_and_losses_of_the_cpu(dataset: Path, tmp_path: Path) -> None:
    same: dict[str, dict[str, Any]] = {
        "cpu": {"set": EVENTS},
        "late": {"set": EVENTS, "device": LATE},
        "random": {
            "set": [*EVENTS, "training.device=auto"],
            "device": {"order": "random", "seed": 5},
            "tries": True,
        },
        "synchronous": {"set": [*EVENTS, *SYNCHRONOUS], "device": LATE},
        "exposed": {"set": EVENTS, "device": {"order": "random", "seed": 7, "exposes_memory": True}},
    }
    rounded = ["training.wire_dtype=float16", "row_optimizer.name=adam"]
    blocks = ["training.blocks=8", "row_optimizer.name=adagrad", "dense_optimizer.clip_norm=0.1"]
    others: dict[str, dict[str, Any]] = {
        "rounded": {"set": rounded},
        "rounded late": {"set": rounded, "device": {**LATE, "exposes_memory": True}},
        "blocks": {"set": blocks},
        "blocks random": {"set": blocks, "device": {"order": "random", "seed": 6}},
    }
    said = play(dataset, tmp_path, 4, {**same, **others})
    summaries = {name: summary_of(tmp_path / name) for name in (*same, *others)}
    for name in same:
        for key in ("model_digest", "validation_auc"):
            assert summaries[name][key] == summaries["cpu"][key], (name, key)
        assert losses_of(tmp_path / name) == losses_of(tmp_path / "cpu")
        assert summaries[name]["devices"] == ["cpu" if name == "cpu" else "queued"]
        assert summaries[name]["exchange"] == "host" or num_gpus() > 0
    assert "rows between trainers: through host memory (trainers compute on the CPU)" in said
    if num_gpus() == 0:  # MPI has started in the child, although a launcher started its parent
        assert (
            said.count(f"rows between trainers: through host memory (trainer 0: torch {torch.__version__} finds") == 1
        )
    for first, second in (("rounded", "rounded late"), ("blocks", "blocks random")):
        assert summaries[first]["model_digest"] == summaries[second]["model_digest"]
    digests = {summaries[name]["model_digest"] for name in ("cpu", "rounded", "blocks")}
    assert len(digests) == 3


def losses_of(run_dir: Path) -> list[Any]:
    """Iteration and loss of each line of the metrics."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["iteration"], line["loss"]) for line in lines]


def test_the_triton_kernels_give_the_models_of_the_cpu(dataset: Path, tmp_path: Path) -> None:
    """In Triton's interpreter, and with optimizers that take no square root."""
    few = ["training.iterations=3", "cache.rows=900", "training.batch_size=16"]
    common = [*(setting for setting in COMMON if not setting.startswith(("training.batch", "cache."))), *few]
    by_table = ["model.name=wide_deep", f"tables.{MEAN}.embedding_dim=4", f"tables.{MEAN}.learning_rate=0.3"]
    jobs = {
        "16 bits": [*common, *by_table, "training.wire_dtype=float16"],
        "blocks": [*common, "training.blocks=2", "row_optimizer.name=momentum"],
    }
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    program = str(Path(__file__).parent / "programs" / "triton_jobs.py")
    done = run_python([program, str(dataset), str(tmp_path), str(tmp_path / "jobs.json")], timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in jobs:
        on_cpu, with_triton = (summary_of(tmp_path / f"{name}-{device}") for device in ("cpu", "triton"))
        assert with_triton["model_digest"] == on_cpu["model_digest"]
        assert "Triton" in with_triton["devices"][0]
        assert losses_of(tmp_path / f"{name}-triton") == losses_of(tmp_path / f"{name}-cpu")


def test_too_little_memory_ends_the_job_with_what_mends_it(dataset: Path, tmp_path: Path) -> None:
    job = {"set": [*COMMON, "cache.rows=20000"], "device": {"limit": 100_000}, "run": "run"}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    done = run_ranks(3, [PROGRAM, str(dataset), str(tmp_path), str(tmp_path / "jobs.json")], timeout=60)
    assert done.returncode == EXIT_FAILURE, done.stdout + done.stderr
    assert "trainer 0 (rank 2)" in done.stderr
    for words in ("out of memory: a cache of", "on queued, where ", "lower cache.rows"):
        assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(num_gpus() > 0, reason="there is a GPU")
@pytest.mark.parametrize(
    ("setting", "fault", "cure"),
    [
        ("training.device=gpu", "training.device = 'gpu': torch ", "set training.device to auto or cpu"),
        (
            "training.exchange=device",
            "training.exchange = 'device': trainer 0: no GPU;",
            "training.exchange to auto or",
        ),
    ],
)
def test_a_job_that_asks_for_a_gpu_ends_where_there_is_none(
    dataset: Path, tmp_path: Path, setting: str, fault: str, cure: str
) -> None:
    done = run_ranks(4, command(dataset, tmp_path / "run", setting), timeout=60)
    finish(done, EXIT_INVALID)
    assert done.stderr.count(f"bagpipe: error: {fault}") == 1, done.stderr
    assert cure in done.stderr
    assert not (tmp_path / "run").exists()
