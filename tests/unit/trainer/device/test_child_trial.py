"""What is made of a child that tries what may crash. Each child is a real process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from bagpipe_hpc.trainer.device.child_trial import CHILD, MOST_READ, VERDICT, fault_of_exposure

SECONDS = 50.0


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (f"print({VERDICT!r})", ""),
        (f"print('a library says hello'); print({VERDICT!r})", ""),
        (f"print({VERDICT!r} + 'wrong values arrive')", "wrong values arrive"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ends by SIGSEGV"),
        (f"import os; print({VERDICT!r}, flush=True); os.kill(os.getpid(), 40)", "ends by signal 40"),
        ("print('no verdict')", "ends with exit code 0: it says nothing"),
        (f"print({VERDICT!r}); print({VERDICT!r})", "ends with exit code 0: it says nothing"),
        (f"print({VERDICT!r}); raise SystemExit('no device\\n')", "ends with exit code 1: no device"),
        ("import os; os.write(1, bytes(range(256)) * 1000); os.write(2, b'\\xff\\xfe' * 9999)", "exit code 0: "),
        (f"print({VERDICT!r} + 'x' * {2 * MOST_READ})", "ends with exit code 0: it says nothing"),
    ],
)
def test_every_end_of_a_child(program: str, fault: str) -> None:
    found = fault_of_exposure(python(program), SECONDS)
    assert (found == "") == (fault == "")
    assert fault in found
    assert len(found) < 300


def test_a_child_that_hangs_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    """It ignores signals that can be ignored."""
    program = f"""
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
child = os.fork()
if child:
    with open({str(tmp_path / "ids")!r}, "w") as file:
        file.write(f"{{os.getpid()}} {{child}}")
time.sleep(600)
"""
    assert "did not end within 5 s" in fault_of_exposure(python(program), 5.0)
    for process_id in (tmp_path / "ids").read_text().split():
        await_end(int(process_id))


def await_end(process_id: int) -> None:
    deadline = time.monotonic() + SECONDS
    while psutil.pid_exists(process_id) and psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {process_id} still runs"
        time.sleep(0.01)


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    assert "cannot start: " in fault_of_exposure([str(tmp_path / "nothing")], SECONDS)


def test_the_child_is_told_nothing_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", "PMI_FD", "OMPI_MCA_ess"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_MCA_pml", "ob1")
    monkeypatch.setenv("PMIX_MCA_gds", "hash")
    program = "import os; print('bagpipe trial: ' + ' '.join(sorted(n for n in os.environ if n[:4] in ('OMPI', 'PMIX', "
    program += "'SLUR', 'PMI_'))))"
    found = fault_of_exposure(python(program), SECONDS).split()
    assert {"OMPI_MCA_pml", "PMIX_MCA_gds"} <= set(found)
    assert not {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", "PMI_FD", "OMPI_MCA_ess"} & set(found)


def test_mpi_sends_host_memory_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real child, with MPI, as a trainer that a launcher has started starts it."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("PMIX_RANK", "1")
    monkeypatch.setenv("PMI_RANK", "1")
    assert fault_of_exposure([*CHILD, "cpu"], SECONDS) == ""


def test_a_child_ends_by_itself_if_nobody_waits_for_it() -> None:
    """Its alarm ends it even while it hangs outside of Python."""
    program = "from bagpipe_hpc.trainer.device import exposure_trial as t; import time; t.SECONDS = 0.5; "
    program += "t._try_cpu = lambda: time.sleep(600); t.main(['cpu'])"
    assert "ends by SIGALRM" in fault_of_exposure(python(program), SECONDS)
