"""Our own job scripts under a real Slurm, each submitted as it is rendered."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.jobs.description import describe
from bagpipe_hpc.jobs.render import file_name, render
from tests.cluster.slurm import CPUS_PER_NODE, GPUS_PER_NODE, SlurmCluster
from tests.launch import find_mpirun, run_ranks

PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 120.0
SETTINGS = ("model.embedding_dim=8", "training.batch_size=100", "training.iterations=4")
NUM_SERVERS, NUM_TRAINERS = 1, 4
# Both have as many servers and trainers: on four nodes, and on one for oracle and servers and two for trainers.
ONE_KIND: dict[str, Any] = {"nodes": 4, "gpus_per_node": 1}
BOTH_KINDS: dict[str, Any] = {"nodes": 2, "gpus_per_node": 2}
WAYS = (("train", ONE_KIND), ("train-mpirun", ONE_KIND), ("train-het", BOTH_KINDS))


class Submission:
    """A script in a directory of its own, with the program that stands for `bagpipe` there."""

    def __init__(self, slurm: SlurmCluster, directory: Path, program: str) -> None:
        self._slurm = slurm
        self.directory = directory
        self.run_dir = directory / "run"
        self._install(program)

    def submit(self, *options: str, env: dict[str, str] | None = None, **fields: object) -> int:
        """Render and submit; returns the job's id."""
        own = {"venv": "venv", "run_dir": "run", "servers": NUM_SERVERS, "threads": 1}
        job = describe(own | fields)
        script = self.directory / file_name(job)
        script.write_text(render(job))
        return self._slurm.submit(script, *options, env=env)

    def log(self) -> str:
        """What the jobs have said so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def wait(self, job_id: int | str) -> dict[str, str]:
        """What Slurm says of the job when it has ended for good."""
        return self._slurm.wait(job_id, SECONDS, self.log)

    def _install(self, program: str) -> None:
        bin_directory = self.directory / "venv" / "bin"
        bin_directory.mkdir(parents=True)
        path = shlex.quote(f"{bin_directory}:{Path(find_mpirun()).parent}")
        (bin_directory / "activate").write_text(f"PATH={path}:$PATH\n")
        command = shlex.join([sys.executable, str(PROGRAMS / program)])
        (bin_directory / "bagpipe").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (bin_directory / "bagpipe").chmod(0o755)


def summary(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return content


@pytest.fixture(scope="session")
def expected_digest(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the same training on this machine, without Slurm."""
    run_dir = tmp_path_factory.mktemp("expected")
    overrides = [f"roles.servers={NUM_SERVERS}", "training.threads=1", *SETTINGS]
    arguments = [str(small_dataset), "--run-dir", str(run_dir), *(w for o in overrides for w in ("--set", o))]
    done = run_ranks(
        1 + NUM_SERVERS + NUM_TRAINERS, ["-m", "bagpipe_hpc", "train", "--data", *arguments], timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    digest: str = summary(run_dir)["model_digest"]
    return digest


@pytest.mark.parametrize(("template", "nodes"), WAYS, ids=[template for template, _ in WAYS])
def test_training_ends_the_same_however_it_is_started(
    slurm: SlurmCluster,
    small_dataset: Path,
    tmp_path: Path,
    expected_digest: str,
    template: str,
    nodes: dict[str, Any],
) -> None:
    submission = Submission(slurm, tmp_path, "train_from_start.py")
    job_id = submission.submit(template=template, data=str(small_dataset), settings=SETTINGS, stage_data=True, **nodes)
    job = submission.wait(job_id)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), submission.log()
    assert (submission.run_dir / "DONE").exists()
    assert summary(submission.run_dir)["model_digest"] == expected_digest


def test_a_node_has_its_share_of_ranks_and_a_gpu_for_each_trainer(slurm: SlurmCluster, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, "where.py")
    job = submission.wait(submission.submit(nodes=4, servers=3, gpus_per_node=2))
    assert job["JobState"] == "COMPLETED", submission.log()
    hosts = slurm.hosts.hosts
    oracle_and_servers = [[host, None] for host in hosts]
    trainers = [[host, gpu] for gpu in ("0", "1") for host in hosts]
    assert json.loads((submission.run_dir / "where.json").read_text()) == oracle_and_servers + trainers


def test_a_heterogeneous_job_is_one_world_with_gpus_for_trainers_only(slurm: SlurmCluster, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, "where.py")
    job = submission.wait(submission.submit(template="train-het", **BOTH_KINDS))
    assert job["JobState"] == "COMPLETED", submission.log()
    ranks = json.loads((submission.run_dir / "where.json").read_text())
    cpu_node = ranks[0][0]
    assert ranks[:2] == [[cpu_node, None]] * (1 + NUM_SERVERS)
    gpu_nodes = [host for host, _ in ranks[2:4]]
    assert len({cpu_node, *gpu_nodes}) == 3
    assert ranks[2:] == [[host, gpu] for gpu in ("0", "1") for host in gpu_nodes]


@pytest.mark.parametrize("first_start", ["signal", "kill"])
def test_jobs_that_did_not_end_well_run_again(slurm: SlurmCluster, tmp_path: Path, first_start: str) -> None:
    options = ["--time=1", "--signal=B:USR1@60"] if first_start == "signal" else []
    submissions = {}
    for template, nodes in WAYS:  # all at once: Slurm looks at time limits twice a minute only
        submission = Submission(slurm, tmp_path / template, "second_time_lucky.py")
        on_cpus = nodes | {"gpus_per_node": 0, "trainers_per_node": nodes["gpus_per_node"]}
        job_id = submission.submit(*options, env={"FIRST_START": first_start}, template=template, **on_cpus)
        submissions[job_id] = submission
    for job_id, submission in submissions.items():
        job = submission.wait(job_id)
        assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), submission.log()
        (log,) = submission.directory.glob("*.log")  # of both runs
        assert log.read_text(errors="replace").count("training on") == 2
        assert (submission.run_dir / "failures.log").exists() == (first_start == "kill"), submission.log()


def test_a_launcher_of_another_mpi_is_named_at_once(slurm: SlurmCluster, small_dataset: Path, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, "train_from_start.py")
    job_id = submission.submit(mpi="mpich", data=str(small_dataset), **ONE_KIND)
    job = submission.wait(job_id)
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("FAILED", "0", "2:0"), submission.log()
    assert "SLURM_NTASKS=6, but MPI sees 1 rank" in submission.log()
    assert "use PMIX_MCA_psec=native srun --mpi=pmix -n 6 bagpipe train --data" in submission.log()


@pytest.mark.parametrize(
    ("program", "template", "nodes", "sign"),
    [
        ("train_from_start.py", "train", ONE_KIND, "metrics.jsonl"),
        ("second_time_lucky.py", "train-mpirun", ONE_KIND, "started"),
        ("second_time_lucky.py", "train-het", BOTH_KINDS, "started"),
    ],
)
def test_a_cancelled_job_ends_and_leaves_nothing(
    slurm: SlurmCluster,
    small_dataset: Path,
    tmp_path: Path,
    program: str,
    template: str,
    nodes: dict[str, Any],
    sign: str,
) -> None:
    submission = Submission(slurm, tmp_path, program)
    settings = ("model.embedding_dim=8", "training.epochs=1000000")
    fields = {"template": template, "data": str(small_dataset), "settings": settings, **nodes}
    job_id = submission.submit(env={"FIRST_START": "signal"}, **fields)
    deadline = time.monotonic() + SECONDS
    while not (submission.run_dir / sign).exists():
        assert time.monotonic() < deadline, submission.log()
        time.sleep(0.05)
    slurm.run("scancel", str(job_id))
    job = submission.wait(job_id)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0"), submission.log()
    slurm.wait_until_idle()
    assert not (submission.run_dir / "DONE").exists()
    program = "import psutil; print(*(process.name() for process in psutil.process_iter()))"
    for host in slurm.hosts.hosts:
        left = set(slurm.hosts.run(host, [sys.executable, "-c", program]).split())
        assert left == {"sh", "cat", "slurmd", "python"}  # the host's init, Slurm, and who asks


def test_the_tasks_of_an_array_do_not_mix_their_runs(slurm: SlurmCluster, small_dataset: Path, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, "train_from_start.py")
    seeds = (3, 4)
    job_id = submission.submit(
        nodes=1,
        servers=1,
        gpus_per_node=1,
        data=str(small_dataset),
        settings=SETTINGS,
        sweep=tuple(f"training.seed={seed}" for seed in seeds),
    )
    for task in range(len(seeds)):
        assert submission.wait(f"{job_id}_{task}")["JobState"] == "COMPLETED", submission.log()
    runs = [submission.run_dir / f"task-{task}" for task in range(len(seeds))]
    for run, seed in zip(runs, seeds, strict=True):
        assert (run / "DONE").exists()
        assert f"seed: {seed}\n" in (run / "config.yaml").read_text()
    assert len({summary(run)["model_digest"] for run in runs}) == len(seeds)
    assert len(list(tmp_path.glob(f"bagpipe-{job_id}_*.log"))) == len(seeds)


def test_nodes_are_as_the_scripts_need_them(slurm: SlurmCluster) -> None:
    found = slurm.run("sinfo", "--noheader", "--Node", "--format=%N %c %G").splitlines()
    assert found == [f"{host} {CPUS_PER_NODE} gpu:{GPUS_PER_NODE}" for host in slurm.hosts.hosts]
