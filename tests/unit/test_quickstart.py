"""`env/quickstart.sh` with stand-ins for set-up, `bagpipe` and `mpirun` that write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.launch import REPO_ROOT
from tests.stand_ins import executable

OPEN_MPI = "mpirun (Open MPI) 5.0.11"
MPICH = "HYDRA build details: Version: 5.0.2"


class Clone:
    """A repository whose programs are stand-ins."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "runs/quickstart/data"
        self.calls = root / "calls"
        (root / "env").mkdir(parents=True)
        shutil.copy2(REPO_ROOT / "env/quickstart.sh", root / "env")
        executable(root / "env/setup.sh", "")
        note = f'echo "${{0##*/}} $*" >>"{self.calls}"'
        executable(root / ".venv/bin/bagpipe", f'{note}; [[ $1 == train ]] || mkdir "${{@: -1}}"')
        self.mpi(root / ".venv/bin/mpirun", OPEN_MPI)

    def mpi(self, path: Path, version: str, status: int = 0) -> None:
        note = f'echo "mpirun $* root=${{OMPI_ALLOW_RUN_AS_ROOT-}}" >>"{self.calls}"'
        executable(path, f'if [[ $1 == --version ]]; then echo "{version}"; exit; fi; {note}; exit {status}')

    def quickstart(self, *args: str, **env: str) -> CompletedProcess[str]:
        self.calls.write_text("")
        removed = ("MPICC", "OMPI_ALLOW_RUN_AS_ROOT")
        clean = {name: value for name, value in os.environ.items() if name not in removed}
        command = [str(self.root / "env/quickstart.sh"), *args]
        return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "a clone")


def test_without_a_file_it_trains_on_synthetic_data(clone: Clone) -> None:
    done = clone.quickstart()
    assert done.returncode == 0, done.stderr
    made, trained = clone.calls.read_text().splitlines()
    assert made == f"bagpipe synth --profile criteo-kaggle --scale 0.01 --samples 200000 --output {clone.data}"
    assert trained.startswith(f"mpirun -n 4 --oversubscribe bagpipe train --data {clone.data} --run-dir {clone.root}")
    assert "--set training.epochs=3" in trained


def test_a_file_is_imported_once_and_again_when_it_changed(clone: Clone, tmp_path: Path) -> None:
    clicks = tmp_path / "train.txt"
    clicks.write_text("0\n")

    def num_imports() -> int:
        assert clone.quickstart(str(clicks)).returncode == 0
        return clone.calls.read_text().count(f"bagpipe import criteo {clicks} --output {clone.data}")

    assert [num_imports(), num_imports()] == [1, 0]
    clicks.write_text("0\n1\n")
    assert num_imports() == 1


def test_every_run_gets_a_directory_of_its_own(clone: Clone) -> None:
    def run_dir() -> str:
        clone.quickstart()
        run = clone.calls.read_text().partition("--run-dir ")[2].partition(" --set")[0]
        Path(run).mkdir()
        return run

    assert run_dir() != run_dir()


def test_open_mpi_may_run_as_root(clone: Clone) -> None:
    clone.quickstart()
    assert clone.calls.read_text().strip().endswith("root=1" if os.geteuid() == 0 else "root=")


def test_another_mpi_starts_the_ranks_without_options_of_open_mpi(clone: Clone) -> None:
    clone.mpi(clone.root / ".venv/bin/mpirun", MPICH)
    done = clone.quickstart()
    assert done.returncode == 0, done.stderr
    trained = clone.calls.read_text().splitlines()[-1]
    assert trained.startswith("mpirun -n 4 bagpipe train")
    assert trained.endswith("root=")


@pytest.mark.parametrize("args", [["absent.txt"], ["a", "b"], ["--fast"]])
def test_wrong_arguments_are_refused_before_any_work(clone: Clone, args: list[str]) -> None:
    done = clone.quickstart(*args)
    assert done.returncode == 1
    assert done.stderr.startswith("quickstart: error: ")
    assert clone.calls.read_text() == ""


def test_a_failed_run_fails_the_quick_start(clone: Clone) -> None:
    clone.mpi(clone.root / ".venv/bin/mpirun", OPEN_MPI, status=7)
    done = clone.quickstart()
    assert done.returncode == 1
    assert "training ended with status 7" in done.stderr
