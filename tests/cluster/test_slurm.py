"""Our own job scripts under a real Slurm, each submitted as it is rendered."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.verify import newest_good
from bagpipe_hpc.data.dataset import open_dataset
from bagpipe_hpc.jobs.description import describe
from bagpipe_hpc.jobs.render import file_name, render
from tests.cluster.slurm import CPUS_PER_NODE, GPUS_PER_NODE, SlurmCluster
from tests.conftest import TEMPORARY
from tests.integration.jobs import command, summary_of, train
from tests.launch import find_mpirun, open_mpi_version, rank_in

# Twelve daemons and the ranks of two nodes on as few as two cores: at times nobody answers Slurm soon enough.
pytestmark = pytest.mark.flaky(reruns=1)

PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 150.0  # of a job, on a slow machine
SETTINGS = ("training.batch_size=20", "training.epochs=8", "model.embedding_dim=8")
FOR_EVER = (*SETTINGS, "training.epochs=1000000")
MPI = "openmpi" if open_mpi_version() else "mpich"
NUM_SERVERS, NUM_TRAINERS = 1, 2
EVERY = 20
# Both have as many servers and trainers: on two nodes, and on one for oracle and servers and one for trainers.
ONE_KIND: dict[str, Any] = {"nodes": 2, "gpus_per_node": 1}
BOTH_KINDS: dict[str, Any] = {"nodes": 1, "gpus_per_node": 2}


class Submission:
    """A script in a directory of its own.

    Args:
        program: Stands for `bagpipe`, if any: shell.
    """

    def __init__(self, slurm: SlurmCluster, directory: Path, program: str | None = None) -> None:
        self._slurm = slurm
        self.directory = directory
        self.run_dir = directory / "run"
        self.venv = sys.prefix
        if program is not None:
            self._install(program)

    def submit(self, *options: str, **fields: object) -> int:
        """Render and submit; returns the job's id."""
        own = {"mpi": MPI, "venv": self.venv, "run_dir": "run", "threads": 1}
        job = describe(own | {"servers": NUM_SERVERS, "checkpoint_every": EVERY} | fields)
        script = self.directory / file_name(job)
        script.write_text(render(job))
        return self._slurm.submit(script, *options)

    def log(self) -> str:
        """What the jobs have said so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def wait(self, job_id: int | str) -> dict[str, str]:
        """What Slurm says of the job when it has ended for good."""
        return self._slurm.wait(job_id, SECONDS, self.log)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for something the job does."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def wait_for_checkpoint(self) -> None:
        """Wait until the job has written one."""
        self.wait_until((self.run_dir / "checkpoints" / "latest").exists)

    def ends_well(self, job_id: int, expected_digest: str) -> None:
        """See that the job ends with this model."""
        job = self.wait(job_id)
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), self.log()
        assert (self.run_dir / "DONE").exists()
        assert summary_of(self.run_dir)["model_digest"] == expected_digest

    def _install(self, program: str) -> None:
        self.venv = "venv"
        bin_directory = self.directory / "venv" / "bin"
        bin_directory.mkdir(parents=True)
        path = shlex.quote(f"{bin_directory}:{Path(find_mpirun()).parent}")
        (bin_directory / "activate").write_text(f"PATH={path}:$PATH\n")
        (bin_directory / "bagpipe").write_text(f"#!/bin/sh\n{program}\n")
        (bin_directory / "bagpipe").chmod(0o755)


def python(program: str) -> str:
    """Shell that runs a program of this directory in place of `bagpipe`."""
    return f'exec {shlex.join([sys.executable, str(PROGRAMS / program)])} "$@"'


def ranks(job_id: int) -> dict[int, psutil.Process]:
    """The processes of a job that play ranks; process namespaces hide nothing from the machine."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            rank = rank_in(environment)
            if rank is not None and process.name() == "bagpipe" and environment.get("SLURM_JOB_ID") == str(job_id):
                found[rank] = process
        except psutil.Error:
            continue
    return found


def processor_seconds(processes: Iterable[psutil.Process]) -> float:
    """What they have used so far; infinite once one has ended."""
    return sum(sum(process.cpu_times()[:2]) if process.is_running() else math.inf for process in processes)


def processes(slurm: SlurmCluster, host: str) -> set[str]:
    """Names of what runs on a node."""
    program = "import psutil; print(*(process.name() for process in psutil.process_iter()))"
    return set(slurm.hosts.run(host, [sys.executable, "-c", program]).split())


@pytest.fixture
def submission(slurm: SlurmCluster) -> Iterator[Submission]:
    """Runs `bagpipe` itself. Its files are where Slurm's are: in memory that all nodes see."""
    with TemporaryDirectory(dir=slurm.directory, prefix="job-") as path:
        yield Submission(slurm, Path(path))


@pytest.fixture(scope="module")
def data(small_dataset: Path) -> str:
    """The data set that all jobs train on."""
    return str(small_dataset)


@pytest.fixture(scope="module")
def expected_digest(small_dataset: Path) -> str:
    """Of the same training on this machine, without Slurm."""
    with TemporaryDirectory(dir=TEMPORARY, prefix="bagpipe-") as path:
        overrides = (f"roles.servers={NUM_SERVERS}", "training.threads=1", *SETTINGS)
        train(1 + NUM_SERVERS + NUM_TRAINERS, command(small_dataset, Path(path), *overrides))
        return str(summary_of(Path(path))["model_digest"])


@pytest.mark.parametrize("template", ["train", "train-mpirun"])
def test_training_ends_the_same_however_it_is_started(
    submission: Submission, data: str, expected_digest: str, template: str
) -> None:
    job_id = submission.submit(template=template, data=data, settings=SETTINGS, stage_data=True, **ONE_KIND)
    submission.ends_well(job_id, expected_digest)


def test_a_node_has_its_share_of_ranks_and_a_gpu_for_each_trainer(slurm: SlurmCluster, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, python("where.py"))
    job = submission.wait(submission.submit(nodes=4, servers=3, gpus_per_node=2))
    assert job["JobState"] == "COMPLETED", submission.log()
    hosts = slurm.hosts.hosts
    oracle_and_servers = [[host, None] for host in hosts]
    trainers = [[host, gpu] for gpu in ("0", "1") for host in hosts]
    assert json.loads((submission.run_dir / "where.json").read_text()) == oracle_and_servers + trainers


def test_a_heterogeneous_job_is_one_world_with_gpus_for_trainers_only(slurm: SlurmCluster, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, python("where.py"))
    job = submission.wait(submission.submit(template="train-het", nodes=2, gpus_per_node=2))
    assert job["JobState"] == "COMPLETED", submission.log()
    found = json.loads((submission.run_dir / "where.json").read_text())
    cpu_node = found[0][0]
    assert found[:2] == [[cpu_node, None]] * 2
    gpu_nodes = [host for host, _ in found[2:4]]
    assert len({cpu_node, *gpu_nodes}) == 3
    assert found[2:] == [[host, gpu] for gpu in ("0", "1") for host in gpu_nodes]


def test_a_job_that_is_told_to_stop_goes_on_later(
    slurm: SlurmCluster, submission: Submission, data: str, expected_digest: str
) -> None:
    job_id = submission.submit(template="train-het", data=data, settings=SETTINGS, **BOTH_KINDS)
    submission.wait_for_checkpoint()
    slurm.run("scancel", "--batch", "--signal=USR1", str(job_id))  # what --signal=B:USR1 makes Slurm do
    submission.ends_well(job_id, expected_digest)
    assert "ended with status 75" in submission.log()
    assert "going on from" in submission.log()


def test_slurm_tells_a_job_before_its_time_is_over(slurm: SlurmCluster, submission: Submission, data: str) -> None:
    options = ("--time=2", "--signal=B:USR1@30")  # it may come a minute earlier
    job_id = submission.submit(*options, data=data, settings=FOR_EVER, **ONE_KIND)
    submission.wait_until(lambda: "ended with status" in submission.log())
    slurm.run("scancel", str(job_id))
    assert " got SIGUSR1: " in submission.log()
    assert "ended with status 75" in submission.log()


def test_a_job_that_loses_a_rank_goes_on(submission: Submission, data: str, expected_digest: str) -> None:
    job_id = submission.submit(template="train-mpirun", data=data, settings=SETTINGS, **ONE_KIND)
    submission.wait_for_checkpoint()
    ranks(job_id)[1].kill()
    submission.ends_well(job_id, expected_digest)
    assert "going on from" in submission.log()


def test_a_job_whose_node_loses_power_goes_on_with_fewer_trainers(
    slurm: SlurmCluster, submission: Submission, data: str
) -> None:
    fields = {"nodes": 2, "min_nodes": 1, "gpus_per_node": 1, "data": data, "settings": SETTINGS}
    job_id = submission.submit("--exclude=bp0,bp1", **fields)
    submission.wait_for_checkpoint()
    slurm.hosts.power_off("bp2")  # with oracle and script
    try:
        assert submission.wait(job_id)["JobState"] == "COMPLETED", submission.log()
    finally:
        slurm.power_on("bp2")
    assert (submission.run_dir / "DONE").exists()
    assert "training dlrm (cached): 2 trainer(s)" in submission.log()
    assert "training dlrm (cached): 1 trainer(s)" in submission.log()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_loses_a_node_and_gets_it_back_ends_with_the_same_model(
    slurm: SlurmCluster, submission: Submission, small_dataset: Path
) -> None:
    """It goes on with half of the trainers, and then with all again."""
    settings = (*SETTINGS, "training.epochs=24")
    with TemporaryDirectory(dir=TEMPORARY, prefix="bagpipe-") as path:
        overrides = (f"roles.servers={NUM_SERVERS}", "training.threads=1", "training.blocks=4", *settings)
        train(1 + NUM_SERVERS + NUM_TRAINERS, command(small_dataset, Path(path), *overrides))
        expected = str(summary_of(Path(path))["model_digest"])

    latest = submission.run_dir / "checkpoints" / "latest"
    fields = {
        "nodes": 2,
        "min_nodes": 1,
        "gpus_per_node": 1,
        "blocks": 4,
        "data": str(small_dataset),
        "settings": settings,
    }
    job_id = submission.submit("--exclude=bp0,bp1", **fields)
    submission.wait_for_checkpoint()
    slurm.hosts.power_off("bp2")  # with oracle and script
    try:
        submission.wait_until(lambda: "training dlrm (cached): 1 trainer(s)" in submission.log())
        saved = latest.read_text()
        submission.wait_until(lambda: latest.read_text() != saved)
    finally:
        slurm.power_on("bp2")
    slurm.wait_until_free("bp2")
    slurm.run("scontrol", "requeue", str(job_id))
    submission.ends_well(job_id, expected)
    assert submission.log().count("training dlrm (cached): 2 trainer(s)") == 2
    assert "the model stays equal to the bit, because training.blocks is 4" in submission.log()


def test_an_incarnation_that_wakes_up_cannot_write_checkpoints(
    slurm: SlurmCluster, submission: Submission, data: str, expected_digest: str
) -> None:
    """Both nodes of a job hang; Slurm starts it again on the two others; then the old ranks go on where they were."""
    job_id = submission.submit(data=data, settings=SETTINGS, **ONE_KIND)
    submission.wait_for_checkpoint()
    old = list(ranks(job_id).values())
    hung = [process for host in slurm.nodes_of(job_id) for process in slurm.hosts.processes(host)]
    for process in hung:
        process.suspend()
    try:
        submission.wait_until(lambda: "going on from" in submission.log())
        before = processor_seconds(old)
        for process in old:
            process.resume()
        submission.wait_until(lambda: processor_seconds(old) > before + 1)
        submission.ends_well(job_id, expected_digest)
    finally:
        for process in hung:
            if process.is_running():
                process.resume()
    assert not psutil.wait_procs(old, timeout=SECONDS)[1]
    checkpoint, rejected = newest_good(submission.run_dir / "checkpoints")
    assert checkpoint is not None
    assert rejected == []
    assert checkpoint.manifest.generation >= 2
    assert Checkpoint.open(checkpoint.path).digest() == expected_digest


def test_a_job_that_cannot_get_further_ends_at_last(slurm: SlurmCluster, tmp_path: Path) -> None:
    submission = Submission(slurm, tmp_path, "exit 1")
    job = submission.wait(submission.submit(max_restarts=1, **ONE_KIND))
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("FAILED", "1", "1:0"), submission.log()
    last = submission.log().splitlines()[-1]
    assert "no run gets further than the beginning, max_restarts is 1: fix the cause" in last


@pytest.mark.skipif(open_mpi_version() != 5, reason="other MPIs refuse to start under a launcher that does not fit")
def test_a_launcher_of_another_mpi_is_named_at_once(submission: Submission, data: str) -> None:
    job = submission.wait(submission.submit(mpi="mpich", data=data, **ONE_KIND))
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("FAILED", "0", "2:0"), submission.log()
    assert "SLURM_NTASKS=4, but MPI sees 1 rank" in submission.log()
    assert "use PMIX_MCA_psec=native srun --mpi=pmix -n 4 bagpipe train --data" in submission.log()


def test_a_cancelled_job_ends_and_leaves_nothing(slurm: SlurmCluster, submission: Submission, data: str) -> None:
    job_id = submission.submit(data=data, settings=FOR_EVER, **ONE_KIND)
    submission.wait_for_checkpoint()
    slurm.run("scancel", str(job_id))
    job = submission.wait(job_id)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0"), submission.log()
    slurm.wait_until_idle()
    assert not (submission.run_dir / "DONE").exists()
    for host in slurm.hosts.hosts:
        assert processes(slurm, host) == {"sh", "cat", "slurmd", "python"}  # the host's init, Slurm, and who asks


def test_the_tasks_of_an_array_do_not_mix_their_runs(submission: Submission, data: str) -> None:
    seeds = (3, 4)
    sweep = tuple(f"training.seed={seed}" for seed in seeds)
    settings = (*SETTINGS, "training.epochs=1")
    job_id = submission.submit(nodes=1, gpus_per_node=1, data=data, settings=settings, sweep=sweep)
    for task in range(len(seeds)):
        assert submission.wait(f"{job_id}_{task}")["JobState"] == "COMPLETED", submission.log()
    runs = [submission.run_dir / f"task-{task}" for task in range(len(seeds))]
    for run, seed in zip(runs, seeds, strict=True):
        assert (run / "DONE").exists()
        assert f"seed: {seed}\n" in (run / "config.yaml").read_text()
    assert len({summary_of(run)["model_digest"] for run in runs}) == len(seeds)
    assert len(list(submission.directory.glob(f"bagpipe-{job_id}_*.log"))) == len(seeds)


def test_all_ranks_of_a_job_import(submission: Submission) -> None:
    line = "\t".join(["1", *map(str, range(13)), *(f"{n:08x}" for n in range(26))])
    (submission.directory / "train.txt").write_text(f"{line}\n" * 1_000)
    job = submission.wait(submission.submit(template="import", nodes=2, threads=2, files=("train.txt",)))
    assert job["JobState"] == "COMPLETED", submission.log()
    assert open_dataset(submission.directory / "clicks").train.num_samples == 900


def test_the_doctor_tries_an_allocation(submission: Submission) -> None:
    job = submission.wait(submission.submit(template="bench", benchmarks=("doctor",), **ONE_KIND))
    assert job["JobState"] == "COMPLETED", submission.log()
    for found in ("2 trainer: bp0 (1), bp1 (1)", "differs most from rank 0", "12 of 12 pairs tried"):
        assert found in submission.log()


def test_nodes_are_as_the_scripts_need_them(slurm: SlurmCluster) -> None:
    found = slurm.run("sinfo", "--noheader", "--Node", "--format=%N %c %G").splitlines()
    assert found == [f"{host} {CPUS_PER_NODE} gpu:{GPUS_PER_NODE}" for host in slurm.hosts.hosts]
