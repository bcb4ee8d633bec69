"""Scalars for TensorBoard. They are the metrics of metrics.jsonl and evaluations.jsonl.

A thread writes them, so training never waits for the disk. If the disk fails, the curves end and the job goes on.

A start of the job that goes on from iteration i writes its own event file. The file tells TensorBoard to ignore the
points that earlier files have from i on, so no point is shown twice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

from bagpipe_hpc.log import LOGGER

CLOSE_SECONDS = 10.0

Point = tuple[int, float, dict[str, float]]  # iteration, seconds since the epoch, scalars


class TensorBoard:
    """Writes one event file.

    Args:
        directory: The directory of event files.
        first_iteration: Training iterations of earlier starts of the job.
    """

    def __init__(self, directory: Path, first_iteration: int) -> None:
        self._directory = directory
        is_continued = any(directory.glob("events.*"))
        self.first_step = first_iteration if is_continued else 0  # other files have the earlier steps
        self._points: SimpleQueue[Point | None] = SimpleQueue()
        # A daemon thread: if the disk hangs, the process ends without waiting for it.
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
        self._thread.start()

    def add(self, iteration: int, scalars: Mapping[str, float | None]) -> None:
        """Add one point to several curves.

        Args:
            iteration: Training iterations of the whole job so far.
            scalars: The value by the name of the curve. A value of None is left out.
        """
        if iteration >= self.first_step and self._thread.is_alive():
            present = {name: value for name, value in scalars.items() if value is not None}
            self._points.put((iteration, time.time(), present))

    def close(self) -> None:
        """Wait until all points are written, but no longer than CLOSE_SECONDS."""
        self._points.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._note(f"did not finish within {CLOSE_SECONDS:.0f} s")

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._note(f"cannot be written: {error.strerror or error}")

    def _write(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # this import takes a second
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._directory.mkdir(exist_ok=True)
        writer = EventsWriter(str(self._directory / "events"), f".{os.getpid()}-{time.monotonic_ns()}")
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=self.first_step, session_log=start))
        while (point := self._points.get()) is not None:
            step, wall_time, scalars = point
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
            writer.write_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))
            writer.flush()
        writer.close()

    def _note(self, what: str) -> None:
        LOGGER.warning("%s %s; training goes on without TensorBoard", self._directory, what)
