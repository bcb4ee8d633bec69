"""The watchdog, by an injected clock: who waits for whom, and who says nothing."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from bagpipe_hpc.config import WatchdogConfig, load_config
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.runtime.watchdog import (
    START_SECONDS,
    START_SECONDS_OF_COMPILED,
    STEPS_OF_START,
    StalledJobError,
    Watchdog,
    start_seconds_of,
)
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.waiting import name_rank, note_start, note_step, open_waits, waiting_for

TOPOLOGY = Topology(3, 1)


class Dogs:
    """The watchdogs of some ranks, with a clock of their own."""

    def __init__(self, run_path: Path, ranks: list[int], *, ends_job: bool = False) -> None:
        self.now = 0.0
        self.ended: list[object] = []
        config = WatchdogConfig(seconds=10, ends_job=ends_job)
        self._dogs = [
            Watchdog(config, run_path, TOPOLOGY, rank, self.ended.append, clock=lambda: self.now) for rank in ranks
        ]
        note_start()
        for _ in range(STEPS_OF_START):
            note_step()
        self.look(0.0)

    def look(self, now: float) -> None:
        self.now = now
        for dog in self._dogs:
            dog.look()


def test_it_tells_who_waits_for_whom(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    waits, goes_on = threading.Event(), threading.Event()

    def play() -> None:
        name_rank("trainer 0 (rank 2)")
        with waiting_for("its prefetch thread"), waiting_for(lambda: "server 0: rows of iteration 7"):
            waits.set()
            goes_on.wait(60)

    thread = start_thread("exchange", play)
    waits.wait(60)
    dogs = Dogs(tmp_path, [0, 2], ends_job=True)
    dogs.look(9.9)
    assert not (tmp_path / "watchdog").exists()
    dogs.look(10.0)
    stacks = (tmp_path / "watchdog" / "rank2.txt").read_text()
    assert re.search(r"thread exchange has waited \d+ s for server 0: rows of iteration 7\n", stacks)
    assert ", in play\n" in stacks
    assert capfd.readouterr().err == ""
    dogs.look(15.0)
    goes_on.set()
    thread.join()
    error = capfd.readouterr().err
    assert f"bagpipe: note: no progress for 15 s; stacks of all threads are in {tmp_path / 'watchdog'}\n" in error
    assert "oracle (rank 0) does not wait for anything" in error
    assert "server 0 (rank 1) has written nothing: its process or its host does not run; look there first" in error
    assert re.search(
        r"trainer 0 \(rank 2\), thread exchange, has waited \d+ s for server 0: rows of iteration 7\n", error
    )
    (ended,) = dogs.ended
    assert isinstance(ended, StalledJobError)


def test_progress_starts_the_time_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dogs = Dogs(tmp_path, [0])
    dogs.look(9.0)
    note_step()
    dogs.look(18.0)
    dogs.look(27.0)
    assert not (tmp_path / "watchdog").exists()
    for now in (28.0, 33.0, 40.0, 1000.0):
        dogs.look(now)
    assert capfd.readouterr().err.count("no progress for") == 1, "one note for one halt"
    assert dogs.ended == []


def test_rank_1_prints_if_the_oracle_stands_still(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Dogs(tmp_path, [0]).look(0.0)
    dogs = Dogs(tmp_path, [1, 2])
    for now in (10.0, 15.0):
        dogs.look(now)
    assert capfd.readouterr().err == ""
    dogs.look(20.0)
    assert "oracle (rank 0) has written nothing" in capfd.readouterr().err


def test_waits_are_over_when_the_block_is_left() -> None:
    with waiting_for("something"):
        assert [wait.what for wait in open_waits() if wait.thread_name == threading.current_thread().name] == [
            "something"
        ]
    assert not [wait for wait in open_waits() if wait.thread_name == threading.current_thread().name]


def test_a_start_may_take_longer(tmp_path: Path) -> None:
    now = 0.0
    dog = Watchdog(WatchdogConfig(seconds=10), tmp_path, TOPOLOGY, 2, print, clock=lambda: now)
    note_step()
    dog.look()
    now = START_SECONDS + 9.9
    dog.look()
    assert not (tmp_path / "watchdog").exists()
    now = START_SECONDS + 10
    dog.look()
    assert (tmp_path / "watchdog" / "rank2.txt").exists()


def test_a_start_lasts_until_all_ranks_are_ready(tmp_path: Path) -> None:
    """Steps before that, such as those of a server that reads a checkpoint, do not end it."""
    now = 0.0
    dog = Watchdog(WatchdogConfig(seconds=10), tmp_path, TOPOLOGY, 2, print, clock=lambda: now, start_seconds=50)
    for _ in range(2 * STEPS_OF_START):
        note_step()
    dog.look()
    now = 59.0
    dog.look()
    assert not (tmp_path / "watchdog").exists()
    note_start()
    for _ in range(STEPS_OF_START):
        note_step()
    dog.look()
    now = 69.0
    dog.look()
    assert (tmp_path / "watchdog" / "rank2.txt").exists()


def test_a_job_whose_trainers_compile_starts_slowly() -> None:
    seconds = [start_seconds_of(load_config(None, [f"training.execution={how}"])) for how in ("eager", "compiled")]
    assert seconds == [START_SECONDS, START_SECONDS_OF_COMPILED]
