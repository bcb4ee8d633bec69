"""A watchdog. If a job makes no step for some time, it prints which rank waits for which.

    every rank   no step for `watchdog.seconds`: writes what its threads wait for, and their stacks, into
                 RUN_DIR/watchdog/rank<r>.txt
    oracle       a moment later: prints what all ranks wait for, and names the ranks that have written nothing; ends
                 the job if `watchdog.ends_job` is set
    rank 1       does the same later, if the oracle has written nothing

The ranks use files, because messages may be what does not move.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bagpipe_hpc.activity import ticking
from bagpipe_hpc.config import Config, WatchdogConfig
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.waiting import Wait, note_step, num_starts, num_steps, open_waits, steps_since_start

DIRECTORY = "watchdog"
# Added until all ranks are ready and STEPS_OF_START steps are made: libraries are loaded, loops are compiled, and
# checkpoints are read. If trainers also compile or record the model (training.execution), that may take many minutes.
START_SECONDS = 60.0
START_SECONDS_OF_COMPILED = 1800.0
STEPS_OF_START = 20
LONGEST_GRACE_SECONDS = 5.0  # the time that the other ranks get to write their files
CLOCKS_DIFFER_SECONDS = 60.0  # the clocks of two hosts may differ by so much
REPORTERS = (0, 1)
MAX_BYTES = 1 << 20

End = Callable[[BagpipeError], object]


class StalledJobError(BagpipeError):
    """A job that has made no step for the time that watchdog.seconds allows."""


class Watchdog:
    """Watches one rank. A thread calls `look` again and again.

    Args:
        config: The settings of the watchdog. `seconds` is not None.
        run_path: The run directory.
        topology: The roles of the ranks.
        rank: The rank to watch.
        end: Ends the job with an error.
        clock: Returns seconds.
        start_seconds: Added to `seconds` while the job starts.
    """

    def __init__(
        self,
        config: WatchdogConfig,
        run_path: Path,
        topology: Topology,
        rank: int,
        end: End,
        clock: Callable[[], float] = time.monotonic,
        start_seconds: float = START_SECONDS,
    ) -> None:
        assert config.seconds is not None
        self._seconds, self._ends_job = config.seconds, config.ends_job
        self._directory = run_path / DIRECTORY
        self._topology, self._rank, self._end, self._clock = topology, rank, end, clock
        self._steps, self._since = num_steps(), clock()
        self._allowed_seconds = self._seconds + start_seconds  # without a step
        self._starts_before = num_starts()
        self._has_written = self._has_printed = False
        self.grace_seconds = min(self._seconds, LONGEST_GRACE_SECONDS)

    def look(self) -> None:
        """Check whether the process has made a step. If it has not for too long, write or print what is due."""
        now, steps = self._clock(), num_steps()
        if steps != self._steps:
            self._steps, self._since = steps, now
            if num_starts() > self._starts_before and steps_since_start() >= STEPS_OF_START:
                self._allowed_seconds = self._seconds
            self._has_written = self._has_printed = False
        still_seconds = now - self._since
        if still_seconds >= self._allowed_seconds and not self._has_written:
            self._has_written = True
            self._write()
        turn = REPORTERS.index(self._rank) + 1 if self._rank in REPORTERS else None
        if (
            turn is not None
            and still_seconds >= self._allowed_seconds + turn * self.grace_seconds
            and not self._has_printed
        ):
            self._has_printed = True
            self._print(still_seconds)

    def _write(self) -> None:
        with suppress(OSError):  # all ranks may be waiting for a file system that does not answer
            self._directory.mkdir(exist_ok=True)
            path = self._path(self._rank)
            unfinished = path.with_suffix(".new")
            unfinished.write_text(report(self._topology.name_of(self._rank), time.time()), encoding="utf-8")
            unfinished.replace(path)

    def _print(self, still_seconds: float) -> None:
        written = [self._waits_of(rank) for rank in range(self._topology.world_size)]
        if any(written[rank] is not None for rank in REPORTERS[: REPORTERS.index(self._rank)]):
            return
        named = {self._topology.name_of(rank): waits for rank, waits in enumerate(written)}
        first = f"no progress for {still_seconds:.3g} s; stacks of all threads are in {self._directory}"
        lines = [first, *lines_about(named)]
        sys.stderr.write("bagpipe: note: " + "\n  ".join(lines) + "\n")
        sys.stderr.flush()
        if self._ends_job:
            self._end(StalledJobError(f"no progress for {still_seconds:.3g} s (watchdog.seconds, watchdog.ends_job)"))

    def _waits_of(self, rank: int) -> list[Wait] | None:
        """Return what the threads of a rank wait for; None if it has not written its file in this standstill."""
        try:
            with self._path(rank).open(encoding="utf-8") as file:
                written, waits = json.loads(file.readline(MAX_BYTES))
            if abs(time.time() - written) > self._seconds + 2 * LONGEST_GRACE_SECONDS + CLOCKS_DIFFER_SECONDS:
                return None
            return [Wait(str(name), str(thread), str(what), float(seconds)) for name, thread, what, seconds in waits]
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def _path(self, rank: int) -> Path:
        return self._directory / f"rank{rank}.txt"


def report(name: str, now: float) -> str:
    """Return the content of a rank's file: a line of JSON, then what its threads wait for and their stacks, in words.

    Args:
        name: The name of the rank.
        now: Seconds since the epoch.
    """
    waits = [wait for wait in open_waits() if wait.rank_name in (name, "")]
    lines = [json.dumps([now, [[w.rank_name, w.thread_name, w.what, round(w.seconds, 1)] for w in waits]])]
    lines.append(f"{name} on host {socket.gethostname()}, process {os.getpid()}")
    lines += [f"thread {wait.thread_name} has waited {wait.seconds:.0f} s for {wait.what}" for wait in waits]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        lines += [f"\nthread {names.get(ident, ident)}:", "".join(traceback.format_stack(frame)).rstrip()]
    return "\n".join(lines) + "\n"


def lines_about(named: dict[str, list[Wait] | None]) -> list[str]:
    """Return a line for each wait, and for each rank that does not wait or has written nothing.

    Args:
        named: What the threads of each rank wait for, by the name of the rank. None: the rank has written nothing.
    """
    lines = []
    for name, waits in named.items():
        if waits is None:
            lines.append(f"{name} has written nothing: its process or its host does not run; look there first")
        elif not waits:
            lines.append(f"{name} does not wait for anything: see its stacks")
        for wait in waits or ():
            lines.append(f"{name}, thread {wait.thread_name}, has waited {wait.seconds:.0f} s for {wait.what}")
    return lines


def start_seconds_of(config: Config) -> float:
    """Return how much longer than later a job may make no step while it starts."""
    return START_SECONDS if config.training.execution == "eager" else START_SECONDS_OF_COMPILED


@contextmanager
def watching(job: Config, run_path: Path, topology: Topology, ranks: list[int], end: End) -> Iterator[None]:
    """Watch the ranks of this process inside the block.

    Args:
        job: The settings of the job. If `watchdog.seconds` is None, nothing is watched.
        run_path: The run directory.
        topology: The roles of the ranks.
        ranks: The ranks of this process: one, or all ranks if they are threads.
        end: Ends the job with an error.
    Communication: none; the watchdogs use files.
    """
    config, start_seconds = job.watchdog, start_seconds_of(job)
    if config.seconds is None:
        yield
        return
    note_step()
    watchdogs = [Watchdog(config, run_path, topology, rank, end, start_seconds=start_seconds) for rank in ranks]

    def look() -> None:
        for watchdog in watchdogs:
            watchdog.look()

    with ticking(look, min(1.0, watchdogs[0].grace_seconds / 4), "watchdog"):
        yield
