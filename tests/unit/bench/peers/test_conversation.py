"""The rank's side of the conversation, with programs that stand in for the worker."""

from __future__ import annotations

import os
import sys

import pytest

from bagpipe_hpc.bench.peers.conversation import WorkerProcess, environment_of_worker
from bagpipe_hpc.errors import PlatformError

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
DIES = "import sys; sys.stdin.readline(); print('no memory left', file=sys.stderr); sys.exit(3)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
HANGS = "import time; time.sleep(600)"


def worker(program: str, seconds: float = 60.0) -> WorkerProcess:
    return WorkerProcess("the process of trainer 1", os.environ, seconds, (sys.executable, "-c", program))


def test_a_request_gets_its_answer() -> None:
    process = worker(ECHO)
    assert [process.ask("a test", {"number": number})["number"] for number in (1, 2)] == [1, 2]
    process.close()


@pytest.mark.parametrize(
    ("program", "seconds", "message"),
    [
        (DIES, 60.0, "TorchRec: the process of trainer 1 has ended with exit code 3; .*\nno memory left"),
        (KILLED, 60.0, "TorchRec: the process of trainer 1 was killed by SIGKILL; it has written no messages"),
        (HANGS, 0.05, r"has not answered for 0\.05 s; give more with --timeout"),
    ],
)
def test_a_process_that_dies_or_hangs_is_an_error(program: str, seconds: float, message: str) -> None:
    with pytest.raises(PlatformError, match=message):
        worker(program, seconds).ask("TorchRec", {})


def test_a_request_may_have_a_time_of_its_own() -> None:
    process = WorkerProcess("the job", os.environ, 60.0, (sys.executable, "-c", HANGS), cure="ask for less")
    with pytest.raises(PlatformError, match=r"the job has not answered for 0\.05 s; ask for less"):
        process.ask("a run", {}, 0.05)


def test_the_environment_has_no_variables_of_launchers() -> None:
    environment = environment_of_worker({"PATH": "/bin", "PMIX_RANK": "1", "OMPI_X": "", "SLURM_JOB_ID": "7"}, 2, "e0")
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GLOO_SOCKET_IFNAME"] == "e0"
    assert environment.keys() & {"PMIX_RANK", "OMPI_X", "SLURM_JOB_ID"} == set()
