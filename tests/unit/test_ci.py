"""`.ci/run` on machines of stand-ins: every part runs, or the run fails, or somebody said that it goes without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.launch import REPO_ROOT
from tests.parts import PARTS, VARIABLE, required_parts
from tests.stand_ins import executable

CLICKS = "shared/data/criteo_kaggle_110k.txt.gz"
PROGRAMS = ("tc", "slurmctld", "mpicc", "chromium")
PARTS_OF_PROGRAMS = [("tc", "cluster"), ("slurmctld", "cluster"), ("mpicc", "system-mpi"), ("chromium", "browser")]
NOTE = 'echo "${0##*/} $* require=${BAGPIPE_REQUIRE-unset} addopts=${PYTEST_ADDOPTS-}" >>"$CALLS"'
ON_HOSTS = "tests/cluster/test_jobs.py::test_training_on_four_hosts_equals_training_on_one"


class Machine:
    """A checkout with stand-ins for its scripts, and a PATH with nothing but stand-ins and what bash needs."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.calls = root / "calls"
        self.script = root / "clone/.ci/run"
        self.clicks = root / CLICKS
        self.script.parent.mkdir(parents=True)
        shutil.copy2(REPO_ROOT / ".ci/run", self.script)
        for script in ("test.sh", "quickstart.sh"):
            executable(root / "clone/env" / script, NOTE)
        for program in PROGRAMS:
            executable(self.bin / program, "")
        for program in ("bash", "env", "dirname"):
            (self.bin / program).symlink_to(str(shutil.which(program)))
        self.user(0)
        self.packages_install()
        self.clicks.parent.mkdir(parents=True)
        self.clicks.touch()

    def user(self, number: int) -> None:
        executable(self.bin / "id", f"echo {number}")

    def packages_install(self, *programs: str) -> None:
        """Let `apt-get install` succeed and give these programs."""
        made = "; ".join(
            f'printf "#!/bin/sh\\n" >"{self.bin}/{name}"; chmod +x "{self.bin}/{name}"' for name in programs
        )
        (self.bin / "chmod").unlink(missing_ok=True)
        (self.bin / "chmod").symlink_to(str(shutil.which("chmod")))
        executable(self.bin / "apt-get", f"{NOTE}; [[ $1 == install ]] || exit 0; {made or ':'}")

    def run(self, without: str | None = None) -> CompletedProcess[str]:
        self.calls.write_text("")
        variables = {"PATH": str(self.bin), "CALLS": str(self.calls)}
        variables |= {} if without is None else {"BAGPIPE_CI_WITHOUT": without}
        return subprocess.run(
            [str(self.script)], env=variables, capture_output=True, text=True, timeout=30, check=False
        )

    def steps(self, without: str | None = None) -> list[str]:
        """What a run that succeeds calls."""
        done = self.run(without)
        assert done.returncode == 0, done.stderr
        return self.calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_with_everything_runs_every_part(machine: Machine) -> None:
    own, mpich, system, quickstart = machine.steps()
    assert own == "test.sh  require=cluster clicks browser addopts="
    assert mpich.startswith("test.sh --mpi mpich tests/parallel/test_transport.py ")
    assert "test_slurm.py" in mpich
    assert system.startswith("test.sh --mpi system tests/parallel/test_transport.py ")
    assert ON_HOSTS in mpich
    assert ON_HOSTS in system
    assert quickstart.startswith(f"quickstart.sh {machine.script.parents[1]}/../{CLICKS}")


@pytest.mark.parametrize(("program", "part"), PARTS_OF_PROGRAMS)
def test_a_program_that_is_missing_is_installed_or_fails_the_run_before_any_test(
    machine: Machine, program: str, part: str
) -> None:
    (machine.bin / program).unlink()
    done = machine.run()
    assert done.returncode == 1
    assert "test.sh" not in machine.calls.read_text()
    assert f"ci: error: the part '{part}' needs" in done.stderr
    assert f"to run without it, set BAGPIPE_CI_WITHOUT='{part}'" in done.stderr
    machine.packages_install(program)
    assert [step.split()[0] for step in machine.steps()][:3] == ["apt-get", "apt-get", "test.sh"]


def test_without_root_nothing_is_installed_and_there_is_no_cluster(machine: Machine) -> None:
    machine.user(1000)
    done = machine.run()
    assert done.returncode == 1
    assert "the part 'cluster' needs root" in done.stderr
    assert len(machine.steps("cluster")) == 4
    (machine.bin / "mpicc").unlink()
    machine.packages_install("mpicc")
    done = machine.run("cluster")
    assert done.returncode == 1
    assert "to run without it, set BAGPIPE_CI_WITHOUT='cluster system-mpi'" in done.stderr
    assert machine.calls.read_text() == ""


def test_without_real_clicks_the_run_fails(machine: Machine) -> None:
    machine.clicks.unlink()
    done = machine.run()
    assert done.returncode == 1
    assert "the part 'clicks' needs" in done.stderr
    assert machine.calls.read_text() == ""


@pytest.mark.parametrize(
    ("part", "left_out", "required"),
    [
        ("cluster", "tests/cluster/", "clicks browser"),
        ("mpich", "--mpi mpich", "cluster clicks browser"),
        ("system-mpi", "--mpi system", "cluster clicks browser"),
        ("clicks", "quickstart.sh", "cluster browser"),
    ],
)
def test_a_part_that_is_named_is_left_out_with_a_line_that_says_so(
    machine: Machine, part: str, left_out: str, required: str
) -> None:
    assert left_out in "\n".join(machine.steps())
    done = machine.run(part)
    assert f"ci: without {part}: " in done.stdout
    calls = machine.calls.read_text()
    assert left_out not in calls
    assert f"require={required} " in calls
    assert ("addopts= --ignore=tests/cluster" in calls) == (part == "cluster")


def test_a_bare_machine_runs_its_own_tests_if_every_part_is_named(machine: Machine) -> None:
    machine.user(1000)
    machine.clicks.unlink()
    for program in PROGRAMS:
        (machine.bin / program).unlink()
    assert machine.steps("clicks cluster system-mpi mpich browser") == [
        "test.sh  require= addopts= --ignore=tests/cluster"
    ]


def test_a_part_that_does_not_exist_is_refused(machine: Machine) -> None:
    done = machine.run("cluster slurm")
    assert done.returncode == 1
    assert (
        "unknown part 'slurm' in BAGPIPE_CI_WITHOUT (allowed: cluster mpich system-mpi clicks browser)" in done.stderr
    )
    assert machine.calls.read_text() == ""


def test_parts_that_are_required_are_words_of_a_variable() -> None:
    assert required_parts({}) == required_parts({VARIABLE: ""}) == frozenset()
    two = {"clicks", "cluster"}
    assert required_parts({VARIABLE: "cluster,clicks"}) == required_parts({VARIABLE: "clicks cluster"}) == two
    assert required_parts({VARIABLE: " ".join(PARTS)}) == PARTS.keys()
    with pytest.raises(
        ValueError, match=r"BAGPIPE_REQUIRE names unknown parts \['slurm'\] \(allowed: cluster, clicks, browser\)"
    ):
        required_parts({VARIABLE: "slurm"})
