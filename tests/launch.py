"""Start Python programs for a test, alone or under `mpirun`, with a hard time limit and nothing left behind."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO

import psutil

REPO_ROOT = Path(__file__).resolve().parent.parent
MARK = "BAGPIPE_TEST_RUN"
# Set for every MPI: none looks at another's variables.
# Without UCX devices Open MPI 5 complains about osc/ucx; with threads, Open MPI 4 fails in osc/pt2pt. Without
# devices of libfabric, btl/ofi looks for them for a second at every start.
OPEN_MPI = {"OMPI_MCA_osc": "^ucx,pt2pt", "OMPI_MCA_btl": "^ofi"}
# Ranks share the cores of a test machine. Open MPI sees it and yields early, MPICH has to be told.
MPICH = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "10", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}


def run_ranks(
    n: int, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run `python *args` on n MPI ranks of this machine and wait; see `run_python` for the rest."""
    return run_command(_on_ranks(n, args), timeout=timeout, env=env)


def run_python(args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run `python *args` without a launcher (a program that uses MPI is a singleton) and wait.

    Args:
        args: What follows the interpreter, such as ["-m", "bagpipe_hpc.cli.main", "doctor"].
        timeout: Seconds after which every process of the run is killed.
        env: Variables to add to this process's own.
    Returns:
        The exit status, stdout and stderr; a status other than 0 is not an error here.
    Raises:
        TimeoutError: names the command and shows its output so far.
    """
    return run_command([sys.executable, *args], timeout=timeout, env=env)


def find_mpirun() -> str:
    """The launcher of the MPI this environment was built with: beside the interpreter, else the PATH's."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError(f"no mpirun in {beside.parent} or on the PATH: run env/setup.sh")
    return found


@cache
def open_mpi_version() -> int | None:
    """The first number of Open MPI's version; None: `find_mpirun` is another MPI's."""
    command = [find_mpirun(), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"open ?(?:mpi|rte)\D*(\d+)", version, re.IGNORECASE)
    return int(found[1]) if found else None


def rank_in(environment: Mapping[str, str]) -> int | None:
    """The rank of the world that a process with these variables plays, with any MPI; None: none."""
    rank = environment.get("PMIX_RANK", environment.get("PMI_RANK"))
    return int(rank) if rank and rank.isdigit() else None


def _environment(scratch: str, extra: Mapping[str, str] | None) -> dict[str, str]:
    environment = {"OMP_NUM_THREADS": "1"} | OPEN_MPI | MPICH
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= os.environ
    environment |= {"TMPDIR": scratch}
    environment |= extra or {}
    paths = [environment.get("PYTHONPATH", ""), str(REPO_ROOT)]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Run:
    """A started program and all that it starts: signal its ranks, wait for the end of every process.

    Args:
        mark: Value of `MARK` in the environment of its processes, and of no others.
    """

    def __init__(self, process: subprocess.Popen[bytes], mark: str, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.process = process
        self._mark = mark
        self._stdout, self._stderr = stdout, stderr

    def kill_rank(self, rank: int, signum: int) -> None:
        """Send a signal to the process that plays a rank of the world."""
        for pid, environment in _marked_processes(self._mark):
            if rank_in(environment) == rank:
                return os.kill(pid, signum)
        raise LookupError(f"no process plays rank {rank}: {self.output()}")

    def output(self) -> str:
        """What it wrote so far."""
        return f"--- stdout ---\n{_text(self._stdout)}\n--- stderr ---\n{_text(self._stderr)}"

    def wait(self, timeout: float) -> CompletedProcess[str]:
        """Wait until every process is gone.

        Raises:
            TimeoutError: names the command and shows its output so far.
        """
        deadline = time.monotonic() + timeout
        while self.process.poll() is None or any(_marked_processes(self._mark)):
            if time.monotonic() > deadline:
                command = " ".join(map(str, self.process.args))  # type: ignore[arg-type]
                raise TimeoutError(f"killed after {timeout:g} s: {command}\n{self.output()}")
            time.sleep(0.02)
        return CompletedProcess(self.process.args, self.process.returncode, _text(self._stdout), _text(self._stderr))

    def kill(self) -> None:
        """Kill every process."""
        while members := list(_marked_processes(self._mark)):
            for pid, _ in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def start_ranks(n: int, args: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Start `python *args` on n MPI ranks of this machine; at the end of the block what still lives is killed."""
    with start_command(_on_ranks(n, args), env=env) as run:
        yield run


def _on_ranks(n: int, args: Sequence[str]) -> list[str]:
    oversubscribe = ["--oversubscribe"] if open_mpi_version() else []
    return [find_mpirun(), *oversubscribe, "-n", str(n), sys.executable, *args]


def run_command(
    command: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run any command and wait; see `run_python` for the rest."""
    with start_command(command, env=env) as run:
        return run.wait(timeout)


@contextmanager
def start_command(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Start any command; at the end of the block what still lives of its processes is killed."""
    mark = secrets.token_hex(8)
    # Files, not pipes: a process that outlives its parent cannot keep the test waiting for the end of its output.
    # A killed mpirun leaves TMPDIR/ompi.<process id> behind, and Open MPI 5 does not start where that is: each run has
    # a directory of its own.
    with (
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as scratch,
    ):
        # Shells start background jobs, and nohup all, with signals ignored that tests send.
        process = subprocess.Popen(
            ["env", "--default-signal=INT,HUP", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_environment(scratch, env) | {MARK: mark},
            start_new_session=True,
        )
        run = Run(process, mark, stdout, stderr)
        try:
            yield run
        finally:
            run.kill()


def _text(file: IO[bytes]) -> str:
    # Not seek and read: the processes write where this file object stands.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _marked_processes(mark: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Process id and environment of all that live. Launchers move ranks to other groups, sessions and namespaces."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get(MARK) == mark:
                yield process.pid, environment
