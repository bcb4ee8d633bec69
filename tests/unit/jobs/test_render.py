"""Job scripts as text, and what they do: run by bash, with launchers and batch systems that only write down calls."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.exit_codes import EXIT_DIVERGED
from bagpipe_hpc.jobs.description import JobDescription, describe
from bagpipe_hpc.jobs.render import render
from tests.job_files import JOBS, scripts
from tests.launch import Run, run_command, start_command

SECONDS = 20
TRAINING = (
    ("slurm", "train"),
    ("slurm", "train-mpirun"),
    ("slurm", "train-het"),
    ("pbs", "train"),
    ("lsf", "train"),
    ("flux", "train"),
)
REQUEUES = {
    "slurm": "scontrol requeue 7",
    "pbs": "qsub -v BAGPIPE_JOB=7 train.pbs",
    "lsf": "",  # by the exit code
    "flux": "flux --parent batch --env=BAGPIPE_JOB=7 train.flux",
}
ODD = """model.name=a 'b' "c" $(touch here) `touch here` ; \\ é"""

RECORD = """#!/bin/bash
printf '%s ' "${0##*/}" "$@" >>"$CALLS/launches"
echo >>"$CALLS/launches"
"""
# What launchers do here: drop their options and run bagpipe, once.
LAUNCH = """
case "$*" in "getattr size") echo 4; exit ;; "job timeleft") echo 3600; exit ;; --parent* | *" true") exit ;; esac
while [[ $1 != */bagpipe ]]; do shift; done
exec "$@"
"""
BAGPIPE = """#!/bin/bash
printf '%s\t' "$@" >>"$CALLS/bagpipe"
echo >>"$CALLS/bagpipe"
while [[ ${1---run-dir} != --run-dir ]]; do shift; done
run_dir=${2-}
"""
ENDS_WELL = 'touch "$run_dir/DONE"'
WAITS = "trap 'exit {status}' {signal}; touch \"$CALLS/ready\"; while :; do sleep 0.02; done"


@dataclass
class Batch:
    """A directory to run a script in as a batch system would.

    Args:
        path: Where it is.
    """

    path: Path

    def prepare(self, job: JobDescription, bagpipe: str) -> Path:
        """Write the script, the launchers, and the program that they run."""
        for name in ("srun", "mpirun", "flux"):
            self._program(f"bin/{name}", RECORD + LAUNCH)
        for name in ("scontrol", "qsub"):
            self._program(f"bin/{name}", RECORD)
        self._program("venv/bin/activate", f"PATH={shlex.quote(str(self.path / 'venv/bin'))}:$PATH\n")
        self._program("venv/bin/bagpipe", BAGPIPE + bagpipe + "\n")
        (self.path / "hosts").write_text("n0\nn0\nn1\nn2\nn3\n")
        (self.path / "clicks").mkdir(exist_ok=True)
        (self.path / "clicks" / "shard").write_text("x")
        script = self.path / "script"
        script.write_text(render(job))
        return script

    def _program(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        """What the batch systems set, all of them."""
        return {
            "PATH": f"{self.path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self.path),
            "TMPDIR": str(self.path / "scratch"),
            "NUMBA_CACHE_DIR": str(self.path),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "4",
            "SLURM_NTASKS": "20",
            "SLURM_ARRAY_TASK_ID": "1",
            "PBS_JOBID": "7",
            "PBS_JOBNAME": "bagpipe",
            "PBS_NODEFILE": "hosts",
            "PBS_O_WORKDIR": str(self.path),
            "LSB_JOBID": "7",
            "LSB_MCPU_HOSTS": "n0 5 n1 5 n2 5 n3 5",
            "FLUX_JOB_ID": "7",
        }

    @property
    def command(self) -> list[str]:
        """Runs the script where it is."""
        return ["env", f"--chdir={self.path}", "bash", "script"]

    def run(self, job: JobDescription, bagpipe: str) -> CompletedProcess[str]:
        """Run the script to its end."""
        self.prepare(job, bagpipe)
        return run_command(self.command, timeout=SECONDS, env=self.env)

    def calls(self) -> list[list[str]]:
        """The arguments of every start of bagpipe."""
        return [line.split("\t")[:-1] for line in (self.path / "bagpipe").read_text().splitlines()]

    def launches(self) -> list[str]:
        """The command line of everything else that was started."""
        return [line.strip() for line in (self.path / "launches").read_text().splitlines()]

    def requeues(self, done: CompletedProcess[str], system: str) -> int:
        """How often the script made the batch system run it again."""
        return done.returncode == 75 if system == "lsf" else self.launches().count(REQUEUES[system])

    def output(self, done: CompletedProcess[str]) -> str:
        """All that was said."""
        logs = "".join(path.read_text() for path in self.path.glob("*.log"))
        return done.stdout + done.stderr + logs


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    (tmp_path / "scratch").mkdir()
    return Batch(tmp_path)


def train(system: str, template: str = "train", **fields: Any) -> JobDescription:
    return describe({"system": system, "template": template, "venv": "venv", **fields})


def wait_for(path: Path, run: Run) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.01)


def test_stored_scripts_are_what_the_function_renders() -> None:
    stored = {path: path.read_text(encoding="utf-8") for path in JOBS.iterdir()}
    assert stored == scripts(), "write them again: python -m tests.job_files"


@pytest.mark.parametrize("path", sorted(scripts()), ids=lambda path: path.name)
def test_stored_scripts_are_bash(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_prints_what_the_function_renders() -> None:
    done = CliRunner().invoke(app, ["jobs", "render"])
    assert (done.exit_code, done.stdout) == (0, (JOBS / "train.sbatch").read_text(encoding="utf-8"))


def test_every_field_of_a_description_is_an_option() -> None:
    (command,) = [c for c in app.registered_groups if c.name == "jobs"]
    assert command.typer_instance is not None
    (render_command,) = command.typer_instance.registered_commands
    assert render_command.callback is not None
    options = set(render_command.callback.__annotations__) - {"context", "return"}
    assert options == set(JobDescription.model_fields)


def test_options_reach_the_script() -> None:
    options = ["--nodes", "8", "--servers", "7", "--gpus-per-node", "2", "--queue", "gpu", "--time-limit", "00:30:00"]
    done = CliRunner().invoke(app, ["jobs", "render", "--system", "slurm", *options, "--stage-data"])
    lines = done.stdout.splitlines()
    for line in ("#SBATCH --nodes=8", "#SBATCH --ntasks-per-node=3", "#SBATCH --partition=gpu"):
        assert line in lines
    assert [line.split()[0] for line in lines if line.startswith(("stage_data=", "servers=", "trainers_per"))] == [
        "stage_data=true",
        "servers=7",
        "trainers_per_node=2",
    ]


@pytest.mark.parametrize(
    ("system", "fields", "lines"),
    [
        (
            "slurm",
            {"account": "a1", "qos": "high", "constraint": "a100&nvlink", "memory": "256G"},
            ["#SBATCH --account=a1", "#SBATCH --qos=high", "#SBATCH --constraint=a100&nvlink", "#SBATCH --mem=256G"],
        ),
        (
            "pbs",
            {"memory": "64G", "nodes": 2, "servers": 1, "threads": 1},
            ["#PBS -V", "#PBS -l select=2:ncpus=5:mpiprocs=5:ngpus=4:mem=64gb"],
        ),
        ("lsf", {"constraint": "a100"}, ['#BSUB -R "select[a100]"']),
        ("flux", {"constraint": "a100"}, ["#flux: --requires=a100"]),
    ],
)  # fmt: skip
def test_what_a_site_asks_for(system: str, fields: dict[str, Any], lines: list[str]) -> None:
    assert set(lines) <= set(render(train(system, **fields)).splitlines())


def test_lines_of_the_site_run_before_all_else(batch: Batch) -> None:
    done = batch.run(
        train("slurm", site_lines=("export SITE='a b'", "set -- $UNSET_VARIABLE")),
        f'echo "$SITE" >"$CALLS/site"; {ENDS_WELL}',
    )
    assert done.returncode == 0, batch.output(done)
    assert (batch.path / "site").read_text() == "a b\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--set", "training.epoch=3"], "did you mean training.epochs?"),
        (["--set", "training.batch_size=0"], "training.batch_size = 0"),
        (["--set", "dense_optimizer.name=nadamax"], "nadamax"),
        (["--sweep", "training.seed=1", "--sweep", "training.learning_rate=much"], "training.learning_rate = 'much'"),
        (["--config", "job.yaml"], "unknown setting 'training.epoch'"),
        (["--min-nodes", "2", "--set", "training.blocks=16"], "give --blocks 16, so that it chooses one that divides"),
        (
            ["--nodes", "3", "--set", "training.blocks=64"],
            "training.blocks is 64, and all nodes together have 12 trainer",
        ),
        (["--blocks", "16", "--sweep", "training.blocks=32"], "the sweep sets training.blocks to 32: leave one out"),
        (["--blocks", "16", "--set", "dense.backend=horovod"], "set dense.backend to mpi or leave it out"),
    ],
)
def test_settings_are_refused_as_in_training(
    options: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("training: {epoch: 3}\n")
    done = CliRunner().invoke(app, ["jobs", "render", *options])
    assert complaint in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize("template", ["train", "train-mpirun"])
def test_a_range_of_nodes_asks_for_the_cores_of_the_fullest(batch: Batch, template: str) -> None:
    """Asked for tasks, Slurm would want the nodes of the first run again."""
    job = train("slurm", template, nodes=4, min_nodes=2, servers=3, trainers_per_node=2, threads=3)
    directives = [line for line in render(job).splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=2-4", "#SBATCH --mincpus=12"} <= set(directives)
    assert not [line for line in directives if "tasks" in line or "cpus-per-task" in line]
    batch.prepare(job, ENDS_WELL)
    for nodes, cores, status, trainers in (("2", "12", 0, 4), ("4", "9", 0, 8), ("2", "11", 2, 0)):
        shutil.rmtree(batch.path / "runs", ignore_errors=True)
        (batch.path / "launches").unlink(missing_ok=True)
        env = batch.env | {"SLURM_JOB_NUM_NODES": nodes, "SLURM_CPUS_ON_NODE": cores}
        done = run_command(batch.command, timeout=SECONDS, env=env)
        assert done.returncode == status, batch.output(done)
        if trainers:
            assert f"n{'tasks=' if template == 'train' else ' '}{1 + 3 + trainers}" in batch.launches()[0]
        else:
            assert "4 ranks of 3 threads on a node, but 11 cores: raise --mincpus" in batch.output(done)


@pytest.mark.parametrize("template", ["train", "train-het"])
def test_every_run_of_a_slurm_job_has_a_step_of_its_own(batch: Batch, template: str) -> None:
    """Slurm numbers the steps of each run from 0, and a socket of the run before may be left on a node."""
    batch.prepare(train("slurm", template), ENDS_WELL)
    done = run_command(batch.command, timeout=SECONDS, env=batch.env | {"SLURM_RESTART_COUNT": "2"})
    assert done.returncode == 0, batch.output(done)
    *skipped, launch = batch.launches()
    assert [line.split() for line in skipped] == [["srun", "--mpi=none", "--ntasks=1", "true"]] * 2
    assert "bagpipe train" in launch


@pytest.mark.parametrize("template", ["train", "train-mpirun"])
def test_on_fewer_nodes_the_trainers_still_divide_the_blocks(batch: Batch, template: str) -> None:
    job = train("slurm", template, nodes=4, min_nodes=1, servers=3, trainers_per_node=2, threads=1, blocks=8)
    batch.prepare(job, ENDS_WELL)
    for nodes, trainers in (("1", 2), ("2", 4), ("3", 4), ("4", 8)):
        shutil.rmtree(batch.path / "runs", ignore_errors=True)
        (batch.path / "launches").unlink(missing_ok=True)
        env = batch.env | {"SLURM_JOB_NUM_NODES": nodes, "SLURM_CPUS_ON_NODE": "9"}
        done = run_command(batch.command, timeout=SECONDS, env=env)
        assert done.returncode == 0, batch.output(done)
        assert f"n{'tasks=' if template == 'train' else ' '}{1 + 3 + trainers}" in batch.launches()[0]
    assert all("training.blocks=8" in call for call in batch.calls())


@pytest.mark.parametrize(("system", "template"), TRAINING)
def test_blocks_become_a_setting(system: str, template: str) -> None:
    script = render(train(system, template, nodes=4, trainers_per_node=2, blocks=16))
    assert 'settings+=("training.blocks=$blocks")' in script
    assert "blocks=16 " in script


@pytest.mark.parametrize(("system", "template"), TRAINING)
def test_training_that_ends(batch: Batch, system: str, template: str) -> None:
    job = train(system, template, settings=(ODD, "training.epochs=3"), config="my job.yaml", run_dir="runs/it's")
    done = batch.run(job, ENDS_WELL)
    assert done.returncode == 0, batch.output(done)
    assert batch.requeues(done, system) == 0
    overrides = ("roles.servers=3", "training.threads=8", "checkpoint.every=1000", ODD, "training.epochs=3")
    assert batch.calls() == [
        ["train", "--data", "clicks", "--run-dir", "runs/it's", "--resume", "auto"]
        + [word for setting in overrides for word in ("--set", setting)]
        + ["my job.yaml"]
    ]
    assert not (batch.path / "here").exists()
    again = run_command(batch.command, timeout=SECONDS, env=batch.env)
    assert (again.returncode, len(batch.calls())) == (0, 1)  # DONE: nothing is left to do


@pytest.mark.parametrize(
    ("system", "template", "mpi", "launch"),
    [
        ("slurm", "train", "openmpi", "srun --mpi=pmix --cpus-per-task=8 --distribution=cyclic "),
        ("slurm", "train", "mpich", "srun --mpi=pmi2 "),
        ("slurm", "train", "openmpi", "--ntasks=20 "),
        ("slurm", "train-het", "openmpi", "--het-group=0,1 "),
        ("slurm", "train-mpirun", "openmpi", "mpirun -n 20 --map-by node --bind-to none -x OMP_NUM_THREADS -x PATH "),
        ("slurm", "train-mpirun", "openmpi", " -x NUMBA_CACHE_DIR "),
        ("pbs", "train", "mpich", "mpirun -n 20 -ppn 1 -bind-to none "),
        ("lsf", "train", "openmpi", "mpirun -n 20 --map-by node "),
        ("flux", "train", "openmpi", "flux run --nodes=4 --ntasks=20 --exclusive --taskmap=cyclic --time-limit=3590s "),
    ],
)
def test_launchers(batch: Batch, system: str, template: str, mpi: str, launch: str) -> None:
    done = batch.run(train(system, template, mpi=mpi), ENDS_WELL)
    assert done.returncode == 0, batch.output(done)
    assert launch in batch.launches()[-1]


@pytest.mark.parametrize(("system", "template"), TRAINING)
@pytest.mark.parametrize(("signum", "requeues", "status"), [(signal.SIGUSR1, 1, 75), (signal.SIGTERM, 0, 143)])
def test_usr1_before_the_time_limit_means_another_run_and_term_the_end(
    batch: Batch, system: str, template: str, signum: signal.Signals, requeues: int, status: int
) -> None:
    # mpirun passes USR1 on; after TERM, Open MPI's kills all ranks before they can write a checkpoint.
    is_mpirun = "\nend_signal=USR1" in render(train(system, template))
    assert is_mpirun == ("launch=(mpirun" in render(train(system, template)))
    heard = signal.SIGUSR1 if is_mpirun else signum
    batch.prepare(train(system, template), WAITS.format(status=75, signal=heard.name.removeprefix("SIG")))
    with start_command(batch.command, env=batch.env) as run:
        wait_for(batch.path / "ready", run)
        os.kill(run.process.pid, signum)
        done = run.wait(timeout=SECONDS)
    assert batch.requeues(done, system) == requeues, batch.output(done)
    assert done.returncode == status


def test_without_a_signal_of_the_batch_system_the_script_keeps_time(batch: Batch) -> None:
    script = batch.prepare(train("pbs"), WAITS.format(status=75, signal="USR1"))
    script.write_text(script.read_text().replace("warn_after=14100", "warn_after=0.5  "))
    done = run_command(batch.command, timeout=SECONDS, env=batch.env)
    assert batch.requeues(done, "pbs") == 1, batch.output(done)


@pytest.mark.parametrize("status", [0, 75, 137])
@pytest.mark.parametrize("system", list(REQUEUES))
def test_a_job_that_gets_no_further_is_not_started_for_ever(batch: Batch, system: str, status: int) -> None:
    job = train(system, max_restarts=1)
    for checkpoint in ("", "iteration-1"):  # the second run writes one, so it does not count
        program = f'mkdir -p "$run_dir/checkpoints"; echo {checkpoint} >"$run_dir/checkpoints/latest"'
        done = batch.run(job, f"{program if checkpoint else ''}\nexit {status}")  # 0 without DONE: mpirun lost a node
        assert batch.requeues(done, system) == (1 if system == "lsf" or not checkpoint else 2), batch.output(done)
    assert batch.run(job, f"exit {status}").returncode == 75
    for runs in (5, 5):  # the last one ends before it has begun
        done = batch.run(job, f"exit {status}")
        assert done.returncode == 1
        assert "no run gets further than iteration-1, max_restarts is 1" in batch.output(done).splitlines()[-1]
        assert len(batch.calls()) == runs - 1


@pytest.mark.parametrize("status", [2, 127])  # settings or data are wrong; there is no such launcher
@pytest.mark.parametrize("system", list(REQUEUES))
def test_a_job_that_cannot_work_is_not_run_again(batch: Batch, system: str, status: int) -> None:
    done = batch.run(train(system), f"exit {status}")
    assert (done.returncode, batch.requeues(done, system)) == (2, 0), batch.output(done)


@pytest.mark.parametrize("system", list(REQUEUES))
def test_a_job_that_diverged_is_not_run_again(batch: Batch, system: str) -> None:
    done = batch.run(train(system), f"exit {EXIT_DIVERGED}")
    assert (done.returncode, batch.requeues(done, system)) == (EXIT_DIVERGED, 0), batch.output(done)
    assert "training diverged" in batch.output(done)


def test_data_is_staged_and_removed_again(batch: Batch) -> None:
    done = batch.run(
        train("slurm", stage_data=True), f'cp -r "$(dirname "$0")/../../scratch" "$CALLS/seen"; {ENDS_WELL}'
    )
    assert done.returncode == 0, batch.output(done)
    (staged,) = (batch.path / "seen").iterdir()
    assert batch.calls()[0][2] == str(batch.path / "scratch" / staged.name)
    assert [path.name for path in staged.iterdir()] == ["shard"]
    assert not any((batch.path / "scratch").iterdir())


def test_each_task_of_a_sweep_has_its_setting_and_its_run(batch: Batch) -> None:
    job = train("slurm", sweep=("training.seed=1", "training.seed=2"))
    done = batch.run(job, ENDS_WELL)
    assert done.returncode == 0, batch.output(done)
    assert "#SBATCH --array=0-1" in render(job).splitlines()
    (arguments,) = batch.calls()
    assert arguments[arguments.index("--run-dir") + 1] == "runs/bagpipe/task-1"
    assert arguments[-1] == "training.seed=2"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("trainers_per_node=4", "trainers_per_node=5"), "24 ranks"),
        (("venv=venv", "venv=none"), "no virtual environment in none"),
    ],
)
def test_what_was_edited_is_checked(batch: Batch, change: tuple[str, str], complaint: str) -> None:
    script = batch.prepare(train("slurm"), ENDS_WELL)
    script.write_text(script.read_text().replace(*change))
    done = run_command(batch.command, timeout=SECONDS, env=batch.env)
    assert done.returncode == 2
    assert complaint in done.stdout


def test_the_other_scripts_run_what_they_say(batch: Batch) -> None:
    benchmarks = ("doctor", "oracle", "rma", "ladder")
    ladder = ("--run-dir", "runs/bagpipe/ladder", "--set", "roles.servers=3")
    files = ("day 0.gz", "day 1.gz")
    table = {"importer": "table", "schema_file": "my schema.yaml", "import_options": ("--min-count", "3")}
    for template, fields in (("import", {}), ("import", table), ("bench", {"benchmarks": benchmarks})):
        done = batch.run(train("slurm", template, files=files, **fields), ":")
        assert done.returncode == 0, batch.output(done)
    assert batch.calls() == [
        ["import", "criteo", "day 0.gz", "day 1.gz", "--output", "clicks"],
        ["import", "table", *files, "--output", "clicks", "--schema", "my schema.yaml", "--min-count", "3"],
        ["doctor", "--directory", "runs/bagpipe"],
        ["doctor", "--mpi", "--servers", "3"],
        ["bench", "oracle", "--json", "runs/bagpipe/oracle.json", "--threads", "8", "--servers", "3"],
        ["bench", "rma", "--json", "runs/bagpipe/rma.json", "--servers", "4"],
        ["bench", "ladder", "--json", "runs/bagpipe/ladder.json", "--data", "clicks", *ladder],
    ]
