"""figures.jsonl in the run directory: what the ranks of a job count and how much memory they use, while it runs.

Each line is a JSON object with a `kind` and the `time` in seconds since 1970 at which the oracle wrote it:

    start        a start of the job: `iteration` (training iterations before it), numbers of ranks, versions
    trainer      the counts of a trainer since that start, up to `iteration`
    server       the memory of a server
    oracle       the rows in each trainer's cache after `iteration`, the bytes of all plans so far, the oracle's memory
    checkpoint   a committed checkpoint of `iteration`
    end          the end of the start, if it did not fail

A job that goes on appends to the lines of its earlier starts. If the file cannot be written, a note says so, the lines
end there, and training goes on.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bagpipe_hpc.bounded_json import dump_line, finite
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.memory_use import resident_bytes
from bagpipe_hpc.protocol.figure_schedule import is_due, num_due
from bagpipe_hpc.protocol.messages import RankFigures
from bagpipe_hpc.topology import Topology

FIGURES_FILE = "figures.jsonl"
MAX_EARLIER_BYTES = 256 << 20  # a file of earlier starts that is larger is replaced


class Recorder:
    """Writes figures.jsonl, and counts the messages with figures that are still to come.

    Args:
        run_path: The run directory.
        topology: The roles of the ranks.
        keeps_earlier: Whether the job goes on, so that lines of earlier starts stay.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        run_path: Path,
        topology: Topology,
        *,
        keeps_earlier: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = run_path / FIGURES_FILE
        self._topology, self._clock = topology, clock
        self._lock = threading.Lock()  # the thread of a commit writes too
        self._num_received = 0
        self._fault = ""
        self._file: io.FileIO | None = None
        self._trying(lambda: self._begin(keeps_earlier))

    def _begin(self, keeps_earlier: bool) -> None:
        earlier = b""
        if keeps_earlier and self._path.is_file() and self._path.stat().st_size <= MAX_EARLIER_BYTES:
            earlier = self._path.read_bytes()
            earlier = earlier[: earlier.rfind(b"\n") + 1]  # a start that was killed may have left half a line
        self._path.unlink(missing_ok=True)  # an earlier start that still runs may write into the old file
        self._path.write_bytes(earlier)
        self._file = io.FileIO(self._path, "a")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def start(self, iteration: int, **fields: Any) -> None:
        """Note that a start begins after so many training iterations of earlier starts."""
        shape = {"trainers": self._topology.num_trainers, "servers": self._topology.num_servers}
        self._write("start", {"iteration": iteration, **shape, **fields})

    def take(self, message: RankFigures) -> None:
        """Write what a rank has counted."""
        self._num_received += 1
        self._write("trainer" if "trainer" in message.counts else "server", {"rank": message.rank, **message.counts})

    def trained(self, iteration: int, count: int, cached_rows: Sequence[int], bytes_plans: int) -> None:
        """Note that a training iteration has ended; write a line if one is due.

        Args:
            iteration: Training iterations of the whole job up to and including this one.
            count: Those of this start.
            cached_rows: The rows in each trainer's cache after it.
            bytes_plans: The bytes of all plans that were sent so far.
        """
        if is_due(count):
            memory = resident_bytes()
            fields = {"cached_rows": list(cached_rows), "bytes_plans": bytes_plans, "memory_bytes": memory}
            self._write("oracle", {"iteration": iteration, **fields})

    def committed(self, iteration: int, fields: Mapping[str, Any]) -> None:
        """Note that a checkpoint is committed. Any thread may call this."""
        self._write("checkpoint", {"iteration": iteration, **fields})

    def end(self, iteration: int, outcome: str, reason: str = "") -> None:
        """Note the end of this start: see `Outcome.word`."""
        self._write("end", {"iteration": iteration, "outcome": outcome, "reason": reason})

    def has_all(self, num_training_plans: int, num_plans: int) -> bool:
        """Return whether the figures of all ranks are here, the last ones included.

        Args:
            num_training_plans: The training iterations of this start.
            num_plans: The plans of this start, those of evaluations included.
        """
        of_trainers = self._topology.num_trainers * (num_due(num_training_plans) + 1)
        return self._num_received >= of_trainers + self._topology.num_servers * (num_due(num_plans) + 1)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        line = dump_line(finite({"kind": kind, "time": round(self._clock(), 3), **_rounded(fields)})).encode()

        with self._lock:
            if self._file is not None and not self._fault:
                file = self._file
                self._trying(lambda: _write_all(file, line))

    def _trying(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._fault = error.strerror or str(error)
            LOGGER.warning("%s cannot be written: %s; the report will lack these figures", self._path, self._fault)


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write all content. A nearly full disk takes a part of it first and reports an error only at the next write."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]


def _rounded(tree: Any) -> Any:
    """Return the tree with floats of at most six digits behind the point."""
    if isinstance(tree, float):
        return round(tree, 6)
    if isinstance(tree, Mapping):
        return {name: _rounded(value) for name, value in tree.items()}
    return [_rounded(value) for value in tree] if isinstance(tree, list | tuple) else tree
