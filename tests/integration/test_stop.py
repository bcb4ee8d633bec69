"""Jobs that are asked to stop: a checkpoint on all ranks, exit code 75, and nothing is lost by going on."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.verify import newest_good
from bagpipe_hpc.exit_codes import EXIT_STOPPED
from tests.integration.jobs import START_SECONDS, command, finish, summary_of, train, wait_for_training, wait_until
from tests.launch import Run, run_python, run_ranks, start_command, start_ranks

SETTINGS = ["training.batch_size=20", "training.epochs=8", "training.threads=1", "checkpoint.every=50"]
STOP_SECONDS = 40  # seconds on a quiet machine
RESUME = ("--resume", "auto")


@pytest.fixture(scope="module")
def expected(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model digest of a run that nobody stops."""
    run_dir = tmp_path_factory.mktemp("expected") / "run"
    train(4, command(small_dataset, run_dir, *SETTINGS))
    return str(summary_of(run_dir)["model_digest"])


def newest(run_dir: Path) -> Path:
    checkpoint, rejected = newest_good(run_dir / "checkpoints")
    assert checkpoint is not None
    assert rejected == []
    return checkpoint.path


def test_signals_to_any_rank(small_dataset: Path, tmp_path: Path, expected: str) -> None:
    """Stopped by one signal, by another, then damaged, then finished; settings are given once."""
    run_dir = tmp_path / "run"
    settings = SETTINGS
    for rank, signum in ((3, signal.SIGHUP), (0, signal.SIGINT)):
        with start_ranks(4, command(small_dataset, run_dir, *settings, options=RESUME)) as run:
            wait_for_training(run, run_dir, num_lines=2 if rank else 8)
            run.kill_rank(rank, signum)
            output = finish(run.wait(STOP_SECONDS), EXIT_STOPPED)
        settings = []
        assert f"(rank {rank}) got {signum.name}; go on with --resume auto" in output
        assert not (run_dir / "DONE").exists()
        assert not (run_dir / "summary.json").exists()
        iteration = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["iteration"]
        assert newest(run_dir).name == f"iteration-{iteration:012d}"

    damaged = newest(run_dir)
    content = bytearray((damaged / "server-00000.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "server-00000.h5").write_bytes(content)
    output = train(4, command(small_dataset, run_dir, "checkpoint.every=60", options=RESUME))
    assert f"configuration {run_dir}/config.yaml: used, with these changes by the command line:\n" in output
    assert "\n  checkpoint.every: 50 -> 60\n" in output
    assert f"{damaged} is skipped: {damaged}/server-00000.h5 is damaged" in output
    assert summary_of(run_dir)["model_digest"] == expected
    assert (run_dir / "DONE").exists()


def test_mpirun_passes_sigusr1_on(small_dataset: Path, tmp_path: Path) -> None:
    """Which job scripts rely on."""
    with start_ranks(3, command(small_dataset, tmp_path / "run", "training.epochs=1000000")) as run:
        wait_for_training(run, tmp_path / "run")
        run.process.send_signal(signal.SIGUSR1)
        output = finish(run.wait(STOP_SECONDS), EXIT_STOPPED)
    assert "got SIGUSR1; go on with --resume auto" in output
    newest(tmp_path / "run")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_local_job_stops_and_goes_on(small_dataset: Path, tmp_path: Path, signum: signal.Signals) -> None:
    arguments = command(small_dataset, tmp_path / "run", "training.epochs=1000000", options=("--local", *RESUME))
    with start_command([sys.executable, *arguments]) as run:
        wait_for_training(run, tmp_path / "run")
        os.kill(run.process.pid, signum)
        output = finish(run.wait(STOP_SECONDS), EXIT_STOPPED)
    assert f"this job got {signum.name}; go on with --resume auto" in output
    iteration = int(newest(tmp_path / "run").name.removeprefix("iteration-"))
    arguments += ["--set", f"training.iterations={iteration + 1}"]
    assert "going on from " in finish(run_python(arguments, timeout=START_SECONDS))


def test_a_local_job_ends_at_once_at_another_signal(small_dataset: Path, tmp_path: Path) -> None:
    # No checkpoint can be written, so the job would never stop.
    settings = ["training.epochs=1000000", "lookahead.prefetch_depth=0"]
    program = (
        "import sys, time; from bagpipe_hpc.checkpoint.partial import PartialCheckpoint as P; "
        "P.write_server = lambda *_: time.sleep(1000); "
        f"sys.argv = {['bagpipe', *command(small_dataset, tmp_path / 'run', *settings, options=('--local',))[2:]]!r}; "
        "from bagpipe_hpc.cli.main import main; main()"
    )
    with start_command([sys.executable, "-c", program]) as run:
        wait_for_training(run, tmp_path / "run")
        wait_until(lambda: _is_ended_by_another(run), run)
        done = run.wait(STOP_SECONDS)
    assert done.returncode == 130, done.stdout + done.stderr
    assert "after an earlier signal and ends at once" in done.stderr
    assert "Traceback" not in done.stderr


def _is_ended_by_another(run: Run) -> bool:
    os.kill(run.process.pid, signal.SIGINT)
    return "after an earlier signal" in run.output()


def test_the_time_limit(small_dataset: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1000000", "training.batch_size=50"]
    arguments = command(small_dataset, tmp_path / "run", *settings, options=("--time-limit", "0:08"))
    done = run_ranks(3, arguments, timeout=START_SECONDS)
    assert "the time limit is near; go on with --resume auto" in finish(done, EXIT_STOPPED)
    newest(tmp_path / "run")


def test_a_second_signal_stops_at_once(small_dataset: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1000000", "training.batch_size=50"]
    with start_ranks(3, command(small_dataset, tmp_path / "run", *settings)) as run:
        wait_for_training(run, tmp_path / "run")
        run.kill_rank(2, signal.SIGSTOP)  # no iteration ends from here on
        run.kill_rank(1, signal.SIGTERM)
        wait_until(lambda: "another signal ends it at once" in run.output(), run)
        # At first this counts as the same request, passed on by somebody else: tests/unit/runtime/test_signals.py.
        wait_until(lambda: _is_ended_by(run, rank=1), run)
        done = run.wait(STOP_SECONDS)
    assert done.returncode not in (0, EXIT_STOPPED)
    assert "server 0 (rank 1)" in done.stderr
    assert "after an earlier signal and ends at once" in done.stderr


def _is_ended_by(run: Run, rank: int) -> bool:
    with suppress(LookupError):  # it is gone already
        run.kill_rank(rank, signal.SIGTERM)
    return "after an earlier signal and ends at once" in run.output()


def test_without_checkpoints_a_job_just_stops(small_dataset: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1000000", "checkpoint.enabled=false"]
    with start_ranks(3, command(small_dataset, tmp_path / "run", *settings)) as run:
        wait_for_training(run, tmp_path / "run")
        run.kill_rank(1, signal.SIGTERM)
        finish(run.wait(STOP_SECONDS), EXIT_STOPPED)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("text", ["soon", "0"])
def test_a_time_limit_that_is_none_is_refused(small_dataset: Path, tmp_path: Path, text: str) -> None:
    arguments = command(small_dataset, tmp_path / "run", options=("--time-limit", text))
    done = run_ranks(3, arguments, timeout=START_SECONDS)
    assert done.returncode == 2
    assert f"--time-limit '{text}' is not a duration above 0" in done.stderr
