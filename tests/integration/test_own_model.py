"""Models and training loops of the user's own: the same numbers, and an end to all ranks where they fail."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.jobs import END_SECONDS, START_SECONDS, command, finish, summary_of, wait_until
from tests.integration.programs import own_models
from tests.launch import REPO_ROOT, run_ranks, start_ranks

PROGRAMS = Path(__file__).parent / "programs"
COMMON = ["training.epochs=2", "training.batch_size=37", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "evaluation.batch_size=37"]  # some shares are empty
Job = dict[str, Any]


def job(by: str, factory: str | None = None, *settings: str, **more: str) -> Job:
    return {"by": by, "factory": factory, "set": [*COMMON, *settings], **more}


def train(dataset: Path, out: Path, num_trainers: int, jobs: list[Job]) -> list[Any]:
    """Summaries; exit codes where there are none."""
    (out / "jobs.json").write_text(json.dumps(jobs))
    args = [str(PROGRAMS / "train_own.py"), str(dataset), str(out), str(out / "jobs.json")]
    done = run_ranks(2 + num_trainers, args, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    codes, returned = (json.loads((out / name).read_text()) for name in ("codes.json", "summaries.json"))
    return [code or summary for code, summary in zip(codes, returned, strict=True)]


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_an_own_model_trains_as_the_built_in_one(small_dataset: Path, tmp_path: Path, num_trainers: int) -> None:
    jobs = [
        job("run"),
        job("run", "dlrm"),
        job("command", "dlrm"),
        job("train_by_logits"),
        job("train_by_tables", "dlrm"),
        job("train_by_tables", "dlrm", "lookahead.prefetch_depth=0"),
    ]
    bfloat16 = [job("run", None, "training.precision=bfloat16")]
    bfloat16.append(job("train_by_logits", "dlrm", "training.precision=bfloat16"))
    results = train(small_dataset, tmp_path, num_trainers, jobs + bfloat16)
    results[2] = summary_of(tmp_path / "2")
    for same in (results[: len(jobs)], results[len(jobs) :]):
        for name in ("model_digest", "validation_auc", "loss", "samples"):
            assert len({result[name] for result in same}) == 1, name
    assert results[0]["model_digest"] != results[-1]["model_digest"]
    assert [result["model"] for result in results[:3]] == ["dlrm", *2 * [f"{own_models.__name__}:dlrm"]]


def test_an_own_model_is_the_same_cached_synchronous_and_restarted(small_dataset: Path, tmp_path: Path) -> None:
    jobs = [
        job("run", "noisy", "mode=synchronous"),
        job("run", "noisy"),
        job("train_by_tables", "noisy", "lookahead.window=8", "lookahead.prefetch_depth=1", "cache.rows=260"),
        job("train_by_logits", "noisy", "training.iterations=20", run="parts"),
        job("train_by_tables", "noisy", run="parts", resume="auto"),
        job("command", None, run="parts", resume="auto"),
        job("command", "noisy", "model.arguments={hidden: 5}", run="parts", resume="auto"),
    ]
    synchronous, *others, _, resumed, built_in, other_arguments = train(small_dataset, tmp_path, 2, jobs)
    for result in (*others, resumed):
        assert result["model_digest"] == synchronous["model_digest"]
        assert result["validation_auc"] == synchronous["validation_auc"]
    assert (built_in, other_arguments) == (2, 2)


# Failures


def test_a_factory_that_cannot_be_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    args = command(small_dataset, tmp_path / "run", "model.factory=nowhere:build")
    done = run_ranks(3, args, timeout=START_SECONDS)
    finish(done, 2)
    assert done.stderr.count("bagpipe: error: ") == 1
    assert "model.factory = 'nowhere:build': there is no module 'nowhere' in " in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "ValueError: of mine"),
        ("leave", "the loop over the session was left in iteration 7, but the other ranks go on"),
        ("forget", "no step in iteration 7: call session.step(loss) on every batch"),
    ],
)
def test_a_loop_that_fails_ends_all_ranks(small_dataset: Path, tmp_path: Path, how: str, message: str) -> None:
    args = [str(PROGRAMS / "fail_own.py"), str(small_dataset), str(tmp_path), how]
    with start_ranks(4, args) as run:
        wait_until(lambda: "bagpipe: error: " in run.output(), run)
        done = run.wait(END_SECONDS)
    assert done.returncode == 1, done.stderr
    assert f"bagpipe: error: trainer 1 (rank 3) on host {socket.gethostname()}: {message}" in done.stderr, done.stderr
    assert done.stderr.count("bagpipe: error: ") == 1
    assert ("Traceback" in done.stderr) == (how == "raise")


def test_trainers_with_other_parameters_do_not_train(small_dataset: Path, tmp_path: Path) -> None:
    args = command(small_dataset, tmp_path, f"model.factory={own_models.__name__}:unequal")
    done = run_ranks(4, args, timeout=START_SECONDS)
    assert done.returncode == 1, done.stderr
    assert "made other parameters here than at trainer 0: initialise them from torch's generator" in done.stderr
    assert "trainer 1 (rank 3) on host " in done.stderr


# The example


def test_the_readme_shows_the_example() -> None:
    example = (PROGRAMS / "train_my_model.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```\n" in (REPO_ROOT / "README.md").read_text(encoding="utf-8")
    assert example.count("\n") < 60


def test_the_example_trains_and_is_evaluated_once_its_code_is_named(small_dataset: Path, tmp_path: Path) -> None:
    shutil.copy(PROGRAMS / "train_my_model.py", tmp_path)
    done = run_ranks(4, [str(tmp_path / "train_my_model.py"), str(small_dataset), str(tmp_path / "run")], timeout=90)
    summary = summary_of(tmp_path / "run")
    assert f"model {summary['model_digest']}\n" in finish(done)
    assert summary["model"] == "train_my_model:build"

    arguments = ["eval", str(tmp_path / "run"), "--data", str(small_dataset), "--run-dir", str(tmp_path / "eval")]
    arguments[1] += "/checkpoints"
    done = run_ranks(3, ["-m", "bagpipe_hpc", *arguments], timeout=START_SECONDS)
    finish(done, 2)
    named = "model.factory=train_my_model:build"
    assert f"names is never run: if you trust this code, give --set {named}" in done.stderr

    there = f"import os, sys; os.chdir({str(tmp_path)!r}); sys.argv = {['bagpipe', *arguments, '--set', named]!r}; "
    finish(run_ranks(3, ["-c", f"{there}from bagpipe_hpc.cli.main import main; main()"], timeout=START_SECONDS))
    assert summary_of(tmp_path / "eval")["validation_auc"] == summary["validation_auc"]
    assert summary_of(tmp_path / "eval")["model_digest"] == summary["model_digest"]
