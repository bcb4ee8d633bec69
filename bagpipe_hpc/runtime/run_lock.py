"""The lock of a run directory: it has one owner. The lock works on the file systems of clusters, and if owners die.

    claim      the claimant judges whether the owner of .owner-<n> still runs; if not, it links a finished file to
               .owner-<n + 1>, which succeeds for exactly one claimant, on NFS too; then it deletes .owner-<n>
    heartbeat  every 5 s the owner sets the time of its file, by the clock of the file server
    fenced     an owner whose file is gone has lost the directory: it stops at its next heartbeat, or before it writes
    release    the owner writes into its file that it has ended

A claimant on another host cannot see whether the process of the owner runs, so it waits for the next heartbeat. If one
comes, the directory is in use. If none comes within a minute, the owner is dead. The clocks of two hosts are never
compared.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bagpipe_hpc.bounded_json import dump_json, read_json, require_checksum, with_checksum
from bagpipe_hpc.checkpoint.durable import sync_directory, write_durably
from bagpipe_hpc.errors import BagpipeError, FencedError, RunDirectoryError
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO, writing_to
from bagpipe_hpc.runtime.run_owner import HEARTBEAT_SECONDS, STALE_SECONDS, Owner, Verdict, judge, this_process

POLL_SECONDS = 0.5
MAX_BYTES = 1 << 16

_MAX_LISTINGS, _LISTING_SECONDS = 6000, 0.01  # one minute: NFS may list names from a cache for so long

_NAME = re.compile(r"\.owner-(\d{6})")
_UNFINISHED = ".owner-new-"
_UNKNOWN = Owner(token="", host="unknown", machine="", pid=0, process_start=-1, claimed="an unknown time")

Show = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """An owner, as its file shows it.

    Args:
        generation: n of `.owner-<n>`.
        owner: The content of the file.
        beat_ns: The time of its last heartbeat, in nanoseconds, by the clock of the file server.
    """

    generation: int
    owner: Owner
    beat_ns: int


class RunLock:
    """The lock of a directory that this process owns.

    Args:
        directory: The run directory.
        generation: n of `.owner-<n>`.
        owner: This process.
    """

    def __init__(self, directory: Path, generation: int, owner: Owner) -> None:
        self._directory, self.generation, self._owner = directory, generation, owner
        self._path = _path(directory, generation)

    def require(self) -> None:
        """Check that this process still owns the directory. The check is cheap.

        Raises:
            FencedError: a later start owns it. The message names its generation and its owner.
            RunDirectoryError: the file of this owner, or the directory, was deleted.
        """
        if self._is_mine():
            return
        try:
            holder = _newest(self._directory)
        except FileNotFoundError:
            holder = None
        if holder is None or holder.generation <= self.generation:
            raise RunDirectoryError(
                f"{self._path} was deleted while this job ran, so the run directory has no owner any more: the job "
                f"stops. Start it again with {RESUME_AUTO}"
            )
        raise FencedError(
            f"generation {holder.generation} ({holder.owner}) took {self._directory} over from this job, which is "
            f"generation {self.generation}: this job stops and has written nothing since then. The newer job goes on"
        )

    def beat(self) -> None:
        """Write a heartbeat. The errors are those of `require`."""
        self.require()
        with suppress(OSError):  # the next heartbeat may succeed
            os.utime(self._path)

    def release(self) -> None:
        """Note in the file that this owner has ended, so that the next start need not wait."""
        with suppress(OSError, BagpipeError):
            if not self._is_mine():
                return
            try:
                _write(self._directory, replace(self._owner, is_released=True)).replace(self._path)
            except OSError:  # the disk is full; a directory without the file has no owner either
                self._path.unlink()

    def _is_mine(self) -> bool:
        try:
            # Also look for newer files: the owner of a newer one deletes this file, but only a moment later.
            return max(_generations(self._directory), default=0) == self.generation and _read(self._path) == self._owner
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the file server does not answer now; this does not mean that there is another owner


def claim(
    directory: Path,
    owner: Owner | None = None,
    *,
    show: Show = print,
    sleep: Callable[[float], None] = time.sleep,
) -> RunLock:
    """Become the owner of a directory. If it does not exist, make it.

    Args:
        directory: The directory.
        owner: The owner. None: this process.
        show: Shows a line to the user while the claimant waits.
        sleep: Waits for a number of seconds.
    Raises:
        RunDirectoryError: another start owns the directory. The message names it and says what to do.
        BagpipeError: the directory cannot be written.
    """
    owner = owner or this_process(os.environ)
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        mine = _write(directory, owner)
        try:
            generation = _claim(directory, owner, mine, show, sleep)
            sync_directory(directory)
        finally:
            mine.unlink(missing_ok=True)
        _sweep(directory, generation)
    return RunLock(directory, generation, owner)


class Ownership:
    """The directories that this process owns until `release`. A thread writes the heartbeats.

    If another start takes one of them over, that thread raises the error, which ends the job.

    Args:
        directories: The directories, also with repetitions. Those that do not exist are made.
        show: Shows a line to the user while this start waits for the end of another.
    Raises:
        RunDirectoryError: another start owns one of them.
        BagpipeError: a directory cannot be written.
    """

    def __init__(self, directories: Iterable[Path], show: Show = print) -> None:
        self._locks: list[RunLock] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        distinct = {directory.resolve(): directory for directory in directories}
        try:
            for directory in distinct.values():
                self._locks.append(claim(directory, show=show))
        except BaseException:
            self.release()
            raise
        _held.append(self)
        self._thread.start()

    def require(self) -> None:
        """Check that this process still owns all directories. The errors are those of `RunLock.require`."""
        for lock in self._locks:
            lock.require()

    def release(self) -> None:
        """Release all directories. A second call does nothing. Any thread may call this."""
        self._ended.set()
        for lock in self._locks:
            lock.release()
        if self in _held:
            _held.remove(self)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            for lock in self._locks:
                lock.beat()


_held: list[Ownership] = []


def release_all() -> None:
    """Release all directories that this process owns, because it ends without leaving its `with` blocks."""
    for ownership in list(_held):
        ownership.release()


def _claim(directory: Path, owner: Owner, mine: Path, show: Show, sleep: Callable[[float], None]) -> int:
    while True:
        holder = _newest(directory)
        if holder is not None:
            _wait_for_end(directory, holder, owner, mine, show, sleep)
        generation = holder.generation + 1 if holder else 1
        if not _link(mine, _path(directory, generation)):
            continue  # another claimant was faster: judge that one
        newest = _newest(directory)
        if newest is not None and newest.generation == generation:
            return generation
        # The list of names was old: `_link` has made a file again that a later owner had deleted.
        _path(directory, generation).unlink(missing_ok=True)


def _wait_for_end(
    directory: Path, holder: Holder, owner: Owner, mine: Path, show: Show, sleep: Callable[[float], None]
) -> None:
    """Return when the holder has ended.

    Raises:
        RunDirectoryError: the holder still runs.
    """
    first_beat, has_shown = holder.beat_ns, False
    while True:
        os.utime(mine)  # the time of the file is now the time of the file server's clock
        silent_seconds = max(0, mine.stat().st_mtime_ns - holder.beat_ns) / 1e9
        verdict = judge(holder.owner, owner, silent_seconds)
        if verdict is Verdict.FREE:
            return
        if verdict is Verdict.HELD or holder.beat_ns != first_beat:
            raise RunDirectoryError(
                f"{directory} is in use: generation {holder.generation} ({holder.owner}) works there. Choose another "
                "--run-dir, wait until that job has ended, or stop that job: send SIGTERM to its process"
            )
        if not has_shown:
            has_shown = True
            show(
                f"bagpipe: note: {directory} belongs to {holder.owner}, last seen {silent_seconds:.0f} s ago: waiting "
                f"for its next heartbeat; after {STALE_SECONDS:.0f} s without one this job takes over"
            )
        sleep(POLL_SECONDS)
        try:
            holder = replace(holder, beat_ns=_beat_ns(_path(directory, holder.generation)))
        except FileNotFoundError:
            return  # another claimant was faster, or the owner has ended


def is_held(directory: Path) -> bool:
    """Return whether a start that still runs owns the directory, as far as this host can see. This does not wait.

    A start on another host counts as running for a minute after its last heartbeat.
    """
    try:
        holder = _newest(directory)
    except (OSError, RunDirectoryError):
        return False
    if holder is None:
        return False
    silent_seconds = (time.time_ns() - holder.beat_ns) / 1e9
    # Somebody who watches is no start of this job, not even if the start is part of the same process.
    watcher = replace(this_process(os.environ), pid=-1, process_start=-1, batch_job="")
    return judge(holder.owner, watcher, silent_seconds) is not Verdict.FREE


def _newest(directory: Path) -> Holder | None:
    """Return the owner with the highest generation; None if there never was one."""
    for _ in range(_MAX_LISTINGS):
        generation = max(_generations(directory), default=0)
        if generation == 0:
            return None
        path = _path(directory, generation)
        # If the file is gone, a later start has deleted it, and a newer file exists: look again for that one.
        with suppress(FileNotFoundError):
            return Holder(generation, _read(path), _beat_ns(path))
        time.sleep(_LISTING_SECONDS)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _generations(directory: Path) -> list[int]:
    """Return the generations of all files of owners.

    Raises:
        RunDirectoryError: an entry with such a name is not a regular file, so no job has made it.
    """
    generations = []
    for path in directory.iterdir():
        if found := _NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise RunDirectoryError(
                        f"{path} is not a regular file, so no job has made it, and the owner of {directory} is not "
                        "known; delete it"
                    )
            generations.append(int(found[1]))
    return generations


def _beat_ns(path: Path) -> int:
    """Return the time of the last heartbeat in nanoseconds.

    The file is opened first, because then NFS asks the server for the time and does not use its cache.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _read(path: Path) -> Owner:
    """Read the file of an owner. If the file is damaged, the owner is unknown."""
    try:
        tree = read_json(path, max_bytes=MAX_BYTES, error=BagpipeError, mend="delete it")
        return Owner.from_tree(require_checksum(tree, path, error=BagpipeError, mend="delete it"))
    except BagpipeError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        return _UNKNOWN
    except ValueError:
        return _UNKNOWN


def _write(directory: Path, owner: Owner) -> Path:
    """Write the file of an owner under a name that no other process uses, and return its path."""
    path = directory / f"{_UNFINISHED}{owner.token}{'-released' if owner.is_released else ''}"
    path.unlink(missing_ok=True)
    try:
        write_durably(path, dump_json(with_checksum(owner.to_tree())))
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    return path


def _link(source: Path, target: Path) -> bool:
    """Give a finished file a second name, which only one claimant can do.

    Returns:
        Whether this claimant has done it; False if another one was faster.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS may repeat a request: if source has two names, the first request has succeeded.
        return source.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return _create(target, source.read_bytes())
    return True


def _create(target: Path, content: bytes) -> bool:
    """Do the same as `_link` on a file system without hard links.

    Until the content is written, other claimants know only the time of the file.
    """
    try:
        write_durably(target, content)
    except FileExistsError:
        return False
    return True


def _path(directory: Path, generation: int) -> Path:
    return directory / f".owner-{generation:06d}"


def _sweep(directory: Path, generation: int) -> None:
    """Delete the files of earlier owners, which fences them, and files that killed claimants have left."""
    now = _beat_ns(_path(directory, generation))
    for path in list(directory.iterdir()):
        found = _NAME.fullmatch(path.name)
        is_earlier = found is not None and int(found[1]) < generation
        with suppress(FileNotFoundError):
            is_left = path.name.startswith(_UNFINISHED) and (now - path.stat().st_mtime_ns) / 1e9 > STALE_SECONDS
            if is_earlier or is_left:
                path.unlink()
