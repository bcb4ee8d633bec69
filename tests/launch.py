"""Start Python programs for a test, alone or under `mpirun`, with a hard time limit and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO

import psutil

REPO_ROOT = Path(__file__).resolve().parent.parent


def run_ranks(
    n: int, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run `python *args` on n MPI ranks of this machine and wait; see `run_python` for the rest."""
    mpirun = find_mpirun()
    oversubscribe = ["--oversubscribe"] if is_open_mpi(mpirun) else []
    return _run([mpirun, *oversubscribe, "-n", str(n), sys.executable, *args], timeout, env)


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
    return _run([sys.executable, *args], timeout, env)


def find_mpirun() -> str:
    """The launcher of the MPI this environment was built with: beside the interpreter, else the PATH's."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError(f"no mpirun in {beside.parent} or on the PATH: run env/setup.sh")
    return found


@cache
def is_open_mpi(mpirun: str) -> bool:
    """Whether the launcher takes Open MPI's options."""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    return "open mpi" in version.lower() or "openrte" in version.lower()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    environment = {"OMP_NUM_THREADS": "1", "OMPI_MCA_osc": "^ucx"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= os.environ
    environment |= extra or {}
    paths = [environment.get("PYTHONPATH", ""), str(REPO_ROOT)]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _run(command: list[str], timeout: float, env: Mapping[str, str] | None) -> CompletedProcess[str]:
    # Files, not pipes: a process that outlives its parent cannot keep the test waiting for the end of its output.
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_environment(env),
            start_new_session=True,
        )
        try:
            process.wait(timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _kill_session(process.pid)
            process.wait()
        if late:
            raise TimeoutError(
                f"killed after {timeout:g} s: {' '.join(command)}\n"
                f"--- stdout ---\n{_text(stdout)}\n--- stderr ---\n{_text(stderr)}"
            )
        return CompletedProcess(command, process.returncode, _text(stdout), _text(stderr))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _kill_session(session: int) -> None:
    """Kill all that the run started. Launchers give each rank a process group of its own, but not a session."""
    while members := list(_session_members(session)):
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _session_members(session: int) -> Iterator[int]:
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process.pid
        except ProcessLookupError:
            continue
