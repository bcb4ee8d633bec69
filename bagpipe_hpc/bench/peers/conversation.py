"""What the rank of a trainer says to the process that trains its peers (`worker.py`): one line of JSON each way.

Messages of the process about errors go to a file without a name, so that its last lines can be shown.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bagpipe_hpc.errors import PlatformError

WORKER = (sys.executable, "-m", "bagpipe_hpc.bench.peers.worker")
LAST_LINES = 15
SECONDS_TO_END = 5.0  # for a process that has closed its input
# A process of a peer is no rank: libraries must not take it for one.
VARIABLES_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MPI_", "HYDRA_", "SLURM_")


def environment_of_worker(environment: Mapping[str, str], threads: int, interface: str | None) -> dict[str, str]:
    """Return the environment of a worker.

    Args:
        environment: The environment of the rank that starts it.
        threads: The threads that it may use.
        interface: The network interface for gloo; None: gloo chooses.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(VARIABLES_OF_LAUNCHERS)}
    kept |= {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    return kept | ({} if interface is None else {"GLOO_SOCKET_IFNAME": interface})


class WorkerProcess:
    """A worker, from its start to `close`.

    Args:
        name: What the errors call it.
        environment: The variables of the process.
        seconds: How long an answer may take, unless `ask` says otherwise.
        command: The words of the command.
        cure: What a user can do if an answer takes longer.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        seconds: float,
        command: tuple[str, ...] = WORKER,
        cure: str = "give more with --timeout",
    ) -> None:
        self._name, self._seconds, self._cure = name, seconds, cure
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, `close` closes it
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=dict(environment)
        )
        self._received = b""

    def ask(self, doing: str, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            doing: What the worker does, for errors.
            request: The request.
            seconds: How long the answer may take.
        Raises:
            PlatformError: the process has ended without an answer, or does not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._fail(doing, self._ending())
        answer: dict[str, Any] = json.loads(self._line(doing, self._seconds if seconds is None else seconds))
        return answer

    def _line(self, doing: str, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._fail(doing, f"has not answered for {seconds:.3g} s; {self._cure}")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                self._fail(doing, self._ending())
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ending(self) -> str:
        """Return how the process has ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(SECONDS_TO_END)
            return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
        return "no longer reads its input"

    def _fail(self, doing: str, what: str) -> None:
        last = self.last_errors()
        self.close()
        said = f"its last messages:\n{last}" if last else "it has written no messages"
        raise PlatformError(f"{doing}: {self._name} {what}; {said}")

    def last_errors(self) -> str:
        """Return the last lines that the process has written to standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        content = os.pread(self._errors.fileno(), size, 0).decode(errors="replace")
        return "\n".join(content.splitlines()[-LAST_LINES:])

    def close(self) -> None:
        """End the process. A launcher ends its ranks at SIGTERM; SIGKILL would leave them behind."""
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was written to a process that has ended
                continue
        self._errors.close()
