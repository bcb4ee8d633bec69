"""Two jobs in one run directory: the second is refused, or is the first one requeued, and then the first one stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bagpipe_hpc.exit_codes import EXIT_INVALID
from bagpipe_hpc.runtime.run_lock import claim
from bagpipe_hpc.runtime.run_owner import this_process
from tests.integration.jobs import START_SECONDS, command, wait_for_training
from tests.launch import run_ranks, start_ranks

STOP_SECONDS = 40  # seconds on a quiet machine


def test_a_second_job_is_refused_and_a_requeued_one_fences_the_first(small_dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    endless = command(small_dataset, run_dir, "training.epochs=1000000", "training.threads=1")
    with start_ranks(3, endless, env={"SLURM_JOB_ID": "7"}) as run:
        wait_for_training(run, run_dir)
        settings = (run_dir / "config.yaml").read_bytes()
        second = run_ranks(3, command(small_dataset, run_dir, options=("--resume", "auto")), timeout=START_SECONDS)
        assert second.returncode == EXIT_INVALID, second.stdout + second.stderr
        complaints = [line for line in second.stderr.splitlines() if line.startswith("bagpipe: ")]
        assert len(complaints) == 1, second.stderr
        assert f"{run_dir} is in use: generation 1 (process " in complaints[0]
        assert "of Slurm job 7" in complaints[0]
        assert (run_dir / "config.yaml").read_bytes() == settings
        assert run.process.poll() is None, run.output()
        claim(run_dir, replace(this_process({}), batch_job="Slurm job 7", restarts=1))
        done = run.wait(STOP_SECONDS)
    assert done.returncode == EXIT_INVALID, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "generation 2 (process " in done.stderr
    assert f"took {run_dir} over from this job" in done.stderr
    assert not (run_dir / "DONE").exists()
