"""A run directory has one owner, and a dead owner does not keep it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.errors import BagpipeError, FencedError, RunDirectoryError
from bagpipe_hpc.runtime import run_lock
from bagpipe_hpc.runtime.run_lock import Ownership, RunLock, claim, release_all
from bagpipe_hpc.runtime.run_owner import (
    STALE_SECONDS,
    Owner,
    Verdict,
    batch_job_of,
    judge,
    process_start,
    this_process,
)

ME = Owner(token="me", host="n1", machine="m1", pid=7, process_start=70, claimed="now")
OTHER = Owner(token="other", host="n2", machine="m2", pid=8, process_start=80, claimed="noon")


def on(job: str, restarts: int = 0) -> dict[str, Any]:
    return {"batch_job": job, "restarts": restarts}


@pytest.mark.parametrize(
    ("holder", "claimant", "silent_seconds", "starts", "verdict"),
    [
        (replace(OTHER, is_released=True), ME, 0.0, {}, Verdict.FREE),
        (OTHER, ME, 0.0, {}, Verdict.UNSURE),
        (OTHER, ME, STALE_SECONDS + 1, {}, Verdict.FREE),
        (replace(OTHER, machine="m1"), ME, 0.0, {8: 80}, Verdict.HELD),
        (replace(OTHER, machine="m1"), ME, STALE_SECONDS + 1, {8: 80}, Verdict.FREE),  # it hangs
        (replace(OTHER, machine="m1"), ME, 0.0, {}, Verdict.FREE),
        (replace(OTHER, machine="m1"), ME, 0.0, {8: 81}, Verdict.FREE),  # the process id was used again
        (replace(ME, token="earlier"), ME, 0.0, {7: 70}, Verdict.FREE),
        (replace(OTHER, **on("Slurm job 1")), replace(ME, **on("Slurm job 1", 1)), 0.0, {}, Verdict.FREE),
        (replace(OTHER, **on("Slurm job 1", 1)), replace(ME, **on("Slurm job 1", 1)), 0.0, {}, Verdict.UNSURE),
        (replace(OTHER, **on("Slurm job 1", 1)), replace(ME, **on("Slurm job 1")), 0.0, {}, Verdict.UNSURE),
        (replace(OTHER, **on("Slurm job 1")), replace(ME, **on("Slurm job 2", 1)), 0.0, {}, Verdict.UNSURE),
    ],
)  # fmt: skip
def test_who_may_take_over(
    holder: Owner, claimant: Owner, silent_seconds: float, starts: dict[int, int], verdict: Verdict
) -> None:
    assert judge(holder, claimant, silent_seconds, starts.get) is verdict


def test_batch_jobs_are_known_by_their_environment() -> None:
    assert batch_job_of({}) == ("", 0)
    assert batch_job_of({"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"}) == ("Slurm job 77", 2)
    assert batch_job_of({"PBS_JOBID": "5.head"}) == ("PBS job 5.head", 0)


def test_processes_that_live_and_that_do_not() -> None:
    assert process_start(os.getpid()) == this_process({}).process_start > 0
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_start(child.pid)
        child.communicate(b"\n")
        assert process_start(child.pid) is None


def alive_elsewhere(token: str = "other") -> Owner:
    """Process 1 of this machine, which lives as long as the test does."""
    start = process_start(1)
    assert start is not None
    return replace(this_process({}), token=token, pid=1, process_start=start)


def test_a_second_job_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    first = claim(tmp_path / "new", alive_elsewhere())
    with pytest.raises(RunDirectoryError, match=r"new is in use: generation 1 \(process 1 on host .* Choose another"):
        claim(tmp_path / "new", this_process({}))
    first.require()
    first.release()
    claim(tmp_path / "new", this_process({})).require()
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".owner-000002"]


def test_an_owner_of_another_host_is_believed_to_live_when_its_heartbeat_comes(tmp_path: Path) -> None:
    lock = claim(tmp_path, OTHER)
    lines: list[str] = []

    def beat_later(seconds: float) -> None:
        os.utime(tmp_path / ".owner-000001", ns=(0, (tmp_path / ".owner-000001").stat().st_mtime_ns + 1))

    with pytest.raises(RunDirectoryError, match=r"process 8 on host n2, since noon"):
        claim(tmp_path, ME, show=lines.append, sleep=beat_later)
    lock.require()
    assert len(lines) == 1
    assert "waiting for its next heartbeat; after 60 s without one this job takes over" in lines[0]


def test_an_owner_of_another_host_without_heartbeat_is_taken_over_and_fenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = claim(tmp_path, OTHER)
    waits: list[float] = []

    def grow_old(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            monkeypatch.setattr("bagpipe_hpc.runtime.run_owner.STALE_SECONDS", -1.0)

    new = claim(tmp_path, ME, show=lambda line: None, sleep=grow_old)
    assert len(waits) == 3
    new.require()
    with pytest.raises(
        FencedError, match=r"generation 2 \(process 7 on host n1, since now\) took .* over from this job"
    ):
        old.beat()
    old.release()  # of somebody else's lock, it does nothing
    new.require()


def test_a_requeued_job_takes_over_at_once(tmp_path: Path) -> None:
    old = claim(tmp_path, replace(OTHER, **on("Slurm job 5")))
    claim(tmp_path, replace(ME, **on("Slurm job 5", 1))).require()
    with pytest.raises(FencedError, match="of Slurm job 5, restart 1"):
        old.require()


def test_of_many_claimants_one_wins(tmp_path: Path) -> None:
    """All find an owner that has ended; the winner lives."""
    claim(tmp_path, OTHER).release()

    def beat(seconds: float) -> None:
        for path in tmp_path.glob(".owner-0*"):
            with suppress(FileNotFoundError):
                os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    def attempt(number: int) -> RunLock | None:
        owner = replace(ME, token=f"t{number}", machine=f"m{number}", pid=number)
        try:
            return claim(tmp_path, owner, show=lambda line: None, sleep=beat)
        except RunDirectoryError:
            return None

    with ThreadPoolExecutor(8) as pool:
        locks = [lock for lock in pool.map(attempt, range(24)) if lock is not None]
    assert sum(map(_owns, locks)) == 1


def test_an_owner_that_vanishes_while_it_is_read_has_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimant that took an older file for the newest one would be a second owner."""
    claim(tmp_path, OTHER).release()
    claim(tmp_path, replace(OTHER, token="second")).release()
    (tmp_path / ".owner-000001").write_text("left behind by a crash")
    third: list[RunLock] = []
    read = run_lock._read

    def read_later(path: Path) -> Owner:
        if not third:
            monkeypatch.setattr(run_lock, "_read", read)
            third.append(claim(tmp_path, alive_elsewhere()))
        return read(path)

    monkeypatch.setattr(run_lock, "_read", read_later)
    with pytest.raises(RunDirectoryError, match="generation 3"):
        claim(tmp_path, this_process({}))
    third[0].require()


def _owns(lock: RunLock) -> bool:
    try:
        lock.require()
    except FencedError:
        return False
    return True


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"token": 1}', b"\xff" * 100])
def test_a_damaged_file_is_somebody_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".owner-000004").write_bytes(content)
    os.utime(tmp_path / ".owner-000004", (0, 0))
    assert claim(tmp_path, ME).generation == 5


def test_a_directory_that_is_deleted_is_no_directory_any_more(tmp_path: Path) -> None:
    lock = claim(tmp_path / "run", ME)
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    with pytest.raises(RunDirectoryError, match="was deleted while this job ran"):
        lock.require()


def test_a_file_system_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    first = claim(tmp_path, alive_elsewhere())
    with pytest.raises(RunDirectoryError, match="in use"):
        claim(tmp_path, this_process({}))
    first.require()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BagpipeError, match=r"file/run cannot be written: Not a directory"):
        claim(tmp_path / "file" / "run", ME)


def test_the_heartbeat_goes_on_and_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    found: list[str] = []

    def note(args: threading.ExceptHookArgs) -> None:
        found.append(str(args.exc_value))
        lost.set()

    monkeypatch.setattr(threading, "excepthook", note)
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    ownership = Ownership([tmp_path / "run", tmp_path / "elsewhere"])
    ownership.require()
    claim(tmp_path / "elsewhere", this_process({})).require()  # this process's earlier job is no hindrance
    assert lost.wait(60)
    assert "elsewhere over from this job" in found[0]
    ownership.release()
    release_all()


def test_one_directory_by_two_names_is_owned_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    ownership = Ownership([tmp_path / "run", tmp_path / "link", tmp_path / "run" / "." / ".." / "run"])
    ownership.require()
    ownership.release()


def test_what_is_released_is_free_for_everybody(tmp_path: Path) -> None:
    ownership = Ownership([tmp_path])
    release_all()
    claim(tmp_path, ME)  # on another host
    with pytest.raises(FencedError):
        ownership.require()


def test_a_claim_that_fails_gives_back_what_it_had(tmp_path: Path) -> None:
    claim(tmp_path / "b", alive_elsewhere())
    with pytest.raises(RunDirectoryError):
        Ownership([tmp_path / "a", tmp_path / "b"])
    assert claim(tmp_path / "a", ME).generation == 2


@pytest.mark.parametrize("kind", ["a directory", "a link", "a pipe"])
def test_an_entry_that_no_job_made_is_named_at_once(tmp_path: Path, kind: str) -> None:
    entry = tmp_path / ".owner-000001"
    if kind == "a directory":
        entry.mkdir()
    elif kind == "a link":
        entry.symlink_to("/nowhere/at/all")
    else:
        os.mkfifo(entry)
    with pytest.raises(RunDirectoryError, match=r"\.owner-000001 is not a regular file, .*delete it"):
        claim(tmp_path, show=pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_a_watcher_sees_whether_a_start_still_runs(tmp_path: Path) -> None:
    assert not run_lock.is_held(tmp_path)
    lock = claim(tmp_path)
    assert run_lock.is_held(tmp_path)
    lock.release()
    assert not run_lock.is_held(tmp_path)
