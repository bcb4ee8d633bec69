"""Evaluation while training: the model is that of a job that does not evaluate, to the bit, started once or twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from bagpipe_hpc.checkpoint.pointer import named_by
from bagpipe_hpc.exit_codes import EXIT_STOPPED
from tests.integration.jobs import command, digest_of, finish, summary_of, train, wait_for_training
from tests.integration.test_restart import finish_all, iteration, losses, saved_iterations
from tests.launch import start_ranks

COMMON = ["training.epochs=3", "training.batch_size=50", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "lookahead.window=8", "evaluation.batch_size=300"]
END = 60  # iterations
EVERY = "evaluation.every=7"
Job = dict[str, Any]


def job(*settings: str, run: str, resume: Path | None = None) -> Job:
    return {"set": [*COMMON, *settings], "run": run, "resume": resume and str(resume)}


def evaluations(out: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / run / "evaluations.jsonl").read_text().splitlines()]


def evaluated(out: Path, run: str) -> list[int]:
    return [line["iteration"] for line in evaluations(out, run)]


def test_evaluating_changes_nothing(small_dataset: Path, tmp_path: Path) -> None:
    """Whatever depends on the iteration: rates, moments, placement, order of samples."""
    kinds = {
        "plain": [],
        "rates": ["row_optimizer.name=adam", "training.learning_rate=0.01", "schedule.warm_up_iterations=9",
                  "schedule.decay=step", "schedule.decay_iterations=11"],
        "placed": ["oracle.placement=locality", "training.shuffle_block=64"],
    }  # fmt: skip
    ways = {
        "off": [],
        "cached": [EVERY],
        "synchronous": [EVERY, "mode=synchronous"],
        "direct": ["evaluation.every=1", "transport=direct", "evaluation.batch_size=900", "oracle.threads=1"],
        "train": [
            EVERY,
            "evaluation.split=train",
            "cache.rows=260",
            "lookahead.prefetch_depth=1",
            "evaluation.batch_size=40",
        ],
    }
    jobs = [
        job(*kinds[kind], *ways[way], "checkpoint.enabled=false", run=f"{kind}-{way}") for kind in kinds for way in ways
    ]
    finish_all(4, small_dataset, tmp_path, jobs)
    for kind in kinds:
        off, *others = (summary_of(tmp_path / f"{kind}-{way}") for way in ways)
        assert off["evaluations"]["number"] == 1
        for way, other in zip(list(ways)[1:], others, strict=True):
            for name in ("model_digest", "loss", "rows_touched", "iterations", "samples"):
                assert other[name] == off[name], (kind, way, name)
            assert losses(tmp_path, f"{kind}-{way}") == losses(tmp_path, f"{kind}-off")
        assert evaluated(tmp_path, f"{kind}-cached") == [*range(7, END, 7), END]
        assert evaluated(tmp_path, f"{kind}-direct") == list(range(1, END + 1))
        assert evaluations(tmp_path, f"{kind}-cached") == evaluations(tmp_path, f"{kind}-synchronous")
        assert evaluations(tmp_path, f"{kind}-cached")[-1] == evaluations(tmp_path, f"{kind}-off")[-1]


def test_going_on_before_and_after_an_evaluation(small_dataset: Path, tmp_path: Path) -> None:
    saving = ["checkpoint.every=1", "checkpoint.keep_last=100", "checkpoint.full_every=4"]
    finish_all(4, small_dataset, tmp_path, [job("evaluation.every=10", *saving, run="whole")])
    saved = saved_iterations(tmp_path, "whole")
    points = {max(at for at in saved if at <= limit) for limit in (19, 20, 21, 33, END)}
    points |= {at for at in saved if at % 10 == 0}
    jobs = [
        job("evaluation.every=10", run=f"from-{at}", resume=iteration(tmp_path, "whole", at)) for at in sorted(points)
    ]
    finish_all(4, small_dataset, tmp_path, jobs)
    for going_on in jobs:
        run = going_on["run"]
        for name in ("model_digest", "validation_auc", "validation_log_loss", "loss", "rows_touched", "iterations"):
            assert summary_of(tmp_path / run)[name] == summary_of(tmp_path / "whole")[name], (run, name)
        assert evaluations(tmp_path, run) == evaluations(tmp_path, "whole"), run
        assert losses(tmp_path, run) == losses(tmp_path, "whole"), run


# By min_improvement, evaluations after the first are all in vain: those after 20 and 30, so training ends after 40.
STOPPING = ["evaluation.every=10", "evaluation.early_stopping_patience=2", "evaluation.min_improvement=10"]


def test_early_stopping_is_the_same_in_every_run(small_dataset: Path, tmp_path: Path) -> None:
    saving = ["checkpoint.every=5", "checkpoint.keep_last=100"]
    unsaved = "checkpoint.enabled=false"
    jobs = [
        job(*STOPPING, *saving, run="stopped"),
        job(*STOPPING, unsaved, "mode=synchronous", run="synchronous"),
        job(*STOPPING, unsaved, "lookahead.window=10", "lookahead.prefetch_depth=10", "oracle.threads=1", run="ahead"),
        job(unsaved, "training.iterations=40", run="short"),
    ]
    finish_all(4, small_dataset, tmp_path, jobs)
    for run in ("stopped", "synchronous", "ahead"):
        summary = summary_of(tmp_path / run)
        assert (tmp_path / run / "DONE").read_text() == "40\n"
        assert (summary["iterations"], summary["samples"]) == (40, 2000)
        assert "2 evaluations in a row had not improved auc" in summary["evaluations"]["stopped_early"]
        for name in ("model_digest", "validation_auc", "rows_touched"):
            assert summary[name] == summary_of(tmp_path / "short")[name], (run, name)
        assert evaluated(tmp_path, run) == [10, 20, 30, 40]
    saved = saved_iterations(tmp_path, "stopped")
    assert saved[-1] == 40
    assert digest_of(iteration(tmp_path, "stopped", 40)) == summary_of(tmp_path / "short")["model_digest"]

    jobs = [job(*STOPPING, run=f"from-{at}", resume=iteration(tmp_path, "stopped", at)) for at in {saved[0], 40}]
    patient = "evaluation.early_stopping_patience=null"
    more = job(*STOPPING[:1], patient, run="more", resume=iteration(tmp_path, "stopped", 40))
    finish_all(4, small_dataset, tmp_path, [*jobs, more])
    for going_on in jobs:
        run = going_on["run"]
        for name in ("model_digest", "validation_auc", "rows_touched", "iterations"):
            assert summary_of(tmp_path / run)[name] == summary_of(tmp_path / "stopped")[name], (run, name)
        assert evaluations(tmp_path, run) == evaluations(tmp_path, "stopped")
    assert summary_of(tmp_path / "more")["iterations"] == END


def test_the_best_checkpoint_is_kept_and_found(small_dataset: Path, tmp_path: Path) -> None:
    # A rate that grows until training gets worse again: the best is in the middle. With 9, some processors get nan.
    best = ["evaluation.every=6", "checkpoint.keep_best=true", "checkpoint.keep_last=1", "checkpoint.full_every=3"]
    best += ["evaluation.metric=log_loss", "training.learning_rate=6", "schedule.warm_up_iterations=60"]
    finish_all(4, small_dataset, tmp_path, [job(*best, run="run")])
    losses_then = {line["iteration"]: line["log_loss"] for line in evaluations(tmp_path, "run")}
    expected = min(losses_then, key=lambda at: (losses_then[at], at))
    assert 6 < expected < END
    checkpoints = tmp_path / "run" / "checkpoints"
    assert named_by(checkpoints / "best") == checkpoints / f"iteration-{expected:012d}"
    assert summary_of(tmp_path / "run")["evaluations"]["best_iteration"] == expected
    kept = saved_iterations(tmp_path, "run")
    assert {expected, END} <= set(kept)
    assert len(kept) <= 4  # with what they build on
    listed = train(1, ["-m", "bagpipe_hpc", "checkpoint", "list", str(checkpoints)])
    assert [line.split()[0] for line in listed.splitlines() if line.rstrip().endswith("best")] == [str(expected)]

    evaluate = ["-m", "bagpipe_hpc", "eval", str(checkpoints / "best"), "--data", str(small_dataset)]
    train(4, [*evaluate, "--run-dir", str(tmp_path / "eval")])
    assert summary_of(tmp_path / "eval")["validation_log_loss"] == losses_then[expected]
    finish_all(4, small_dataset, tmp_path, [job(*best, run="again", resume=checkpoints / "best")])
    for name in ("model_digest", "validation_log_loss"):
        assert summary_of(tmp_path / "again")[name] == summary_of(tmp_path / "run")[name]
    assert evaluations(tmp_path, "again") == evaluations(tmp_path, "run")


def test_stopped_while_evaluating(small_dataset: Path, tmp_path: Path) -> None:
    """The state is that after the iteration before; going on begins with the whole evaluation."""
    settings = [*COMMON, "evaluation.every=20", "evaluation.batch_size=1", "training.iterations=40", "tensorboard=true"]
    train(3, command(small_dataset, tmp_path / "whole", *settings))
    run_dir = tmp_path / "run"
    with start_ranks(3, command(small_dataset, run_dir, *settings, options=("--resume", "auto"))) as run:
        wait_for_training(run, run_dir)  # the line is of 20 iterations: 1,000 batches to evaluate on are next
        run.kill_rank(2, signal.SIGTERM)
        output = finish(run.wait(60), EXIT_STOPPED)
    assert "stopped after iteration 20, while evaluating: " in output
    assert saved_iterations(tmp_path, "run") == [20]
    train(3, command(small_dataset, run_dir, *settings, options=("--resume", "auto")))
    assert summary_of(run_dir)["model_digest"] == summary_of(tmp_path / "whole")["model_digest"]
    assert evaluations(tmp_path, "run") == evaluations(tmp_path, "whole")
