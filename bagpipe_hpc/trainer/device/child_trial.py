"""Whether MPI reads and writes the memory of GPUs: tried in a child process, which may crash, hang or print anything.

This module imports neither torch nor MPI.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from bagpipe_hpc.launcher import without_launcher

SECONDS = 60.0  # the child imports torch, and starts MPI and a GPU
VERDICT = "bagpipe trial: "  # before the fault, on a line of its own; nothing behind it if there is none
CHILD = (sys.executable, "-m", "bagpipe_hpc.trainer.device.exposure_trial")
MOST_READ = 1 << 16  # bytes of the child's output
_MOST_SHOWN = 200  # characters of its last line


def fault_of_exposure(command: Sequence[str] = CHILD, seconds: float = SECONDS) -> str:
    """Return why MPI cannot read and write the memory of this process's GPU; empty if it can.

    Args:
        command: The words of the command that tries it.
        seconds: How long the command may take.
    Communication: none.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=without_launcher(os.environ),
                start_new_session=True,  # so that all that it starts can be killed
            )
        except OSError as error:
            return f"the trial of MPI with the memory of a GPU cannot start: {error}"
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"MPI with the memory of a GPU did not end within {seconds:g} s"
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _fault(code, _tail(output), _tail(errors))


def _fault(code: int, output: str, errors: str) -> str:
    """Return the fault.

    Args:
        code: The exit code of the child.
        output: What it has written to standard output.
        errors: What it has written to standard error.
    """
    if code < 0:
        return f"MPI with the memory of a GPU ends by {_name_of(-code)}"
    verdicts = [line.removeprefix(VERDICT) for line in output.splitlines() if line.startswith(VERDICT)]
    if code == 0 and len(verdicts) == 1:
        return verdicts[0].strip()[:_MOST_SHOWN]
    last = ([line.strip() for line in errors.splitlines() if line.strip()] or ["it says nothing"])[-1]
    return f"MPI with the memory of a GPU ends with exit code {code}: {last[:_MOST_SHOWN]}"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _tail(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), MOST_READ, max(0, size - MOST_READ)).decode(errors="replace")
