"""A run directory has one owner: a lock for file systems of clusters, and for owners that die.

    claim      .owner-<n + 1> is linked to a finished file, which succeeds for exactly one claimant, on NFS too;
               a claimant first judges the owner of .owner-<n>; afterwards it deletes that file
    heartbeat  every 5 s the owner sets the time of its file, by the clock of the file server
    fenced     an owner whose file is gone was taken over: it stops at its next heartbeat, or before it writes
    release    the file says that its owner has ended

A claimant on another host cannot see whether the owner's process lives, so it waits for the next heartbeat: if one
comes, the directory is in use. If none comes within a minute, the owner is dead. No clocks of two hosts are compared.
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

_MAX_LISTINGS, _LISTING_SECONDS = 6000, 0.01  # NFS may list names from a cache, for a minute

_NAME = re.compile(r"\.owner-(\d{6})")
_UNFINISHED = ".owner-new-"
_UNKNOWN = Owner(token="", host="unknown", machine="", pid=0, process_start=-1, claimed="an unknown time")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """An owner as its file shows it: n of `.owner-<n>`, the owner, the time of its last heartbeat in ns."""

    generation: int
    owner: Owner
    beat_ns: int


class RunLock:
    """One directory that this process owns.

    Args:
        directory: The run directory.
        generation: n of `.owner-<n>`.
        owner: This process.
    """

    def __init__(self, directory: Path, generation: int, owner: Owner) -> None:
        self._directory, self.generation, self._owner = directory, generation, owner
        self._path = _path(directory, generation)

    def require(self) -> None:
        """See that the directory is still this start's; cheap.

        Raises:
            FencedError: a later start took it over; names its generation and its owner.
            RunDirectoryError: the directory was deleted.
        """
        if self._is_mine():
            return
        try:
            holder = _newest(self._directory)
        except FileNotFoundError:
            holder = None
        if holder is None or holder.generation <= self.generation:
            raise RunDirectoryError(
                f"{self._path} was deleted while this job ran, so nothing says any more whose run directory this is; "
                f"the job stops. Start it again with {RESUME_AUTO}"
            )
        raise FencedError(
            f"generation {holder.generation} ({holder.owner}) took {self._directory} over from this job, which is "
            f"generation {self.generation}: this one stops, and has written nothing since. Let the newer one go on"
        )

    def beat(self) -> None:
        """Show that the owner lives; raises as `require`."""
        self.require()
        with suppress(OSError):  # the next one may succeed
            os.utime(self._path)

    def release(self) -> None:
        """Let the next start have the directory."""
        with suppress(OSError, BagpipeError):
            if not self._is_mine():
                return
            try:
                _write(self._directory, replace(self._owner, is_released=True)).replace(self._path)
            except OSError:  # a full disk: without its file, the owner is gone, too
                self._path.unlink()

    def _is_mine(self) -> bool:
        try:
            # Newer names, too: who made one deletes this file a moment later.
            return max(_generations(self._directory), default=0) == self.generation and _read(self._path) == self._owner
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the file server does not answer now, and says nothing about the owner


def claim(
    directory: Path,
    owner: Owner | None = None,
    *,
    tell: Tell = print,
    sleep: Callable[[float], None] = time.sleep,
) -> RunLock:
    """Become the owner of a directory, which is made if there is none.

    Args:
        owner: Default: this process.
        tell: Takes a line while the claimant waits.
    Raises:
        RunDirectoryError: another start is at work there; names it and says what to do.
        BagpipeError: the directory cannot be written.
    """
    owner = owner or this_process(os.environ)
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        mine = _write(directory, owner)
        try:
            generation = _claim(directory, owner, mine, tell, sleep)
            sync_directory(directory)
        finally:
            mine.unlink(missing_ok=True)
        _sweep(directory, generation)
    return RunLock(directory, generation, owner)


class Ownership:
    """Directories that this process owns until `release`; a thread keeps up the heartbeat.

    Where one is taken over, the error is raised in that thread, which ends the job.

    Args:
        directories: Each is made if there is none; one may be given twice.
        tell: Takes a line while this start waits for the end of another.
    Raises:
        RunDirectoryError: another start is at work in one of them.
    """

    def __init__(self, directories: Iterable[Path], tell: Tell = print) -> None:
        self._locks: list[RunLock] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        distinct = {directory.resolve(): directory for directory in directories}
        try:
            for directory in distinct.values():
                self._locks.append(claim(directory, tell=tell))
        except BaseException:
            self.release()
            raise
        _held.append(self)
        self._thread.start()

    def require(self) -> None:
        """See that nobody took a directory over; errors as of `RunLock.require`."""
        for lock in self._locks:
            lock.require()

    def release(self) -> None:
        """Let the next start have the directories; again, it does nothing. Safe in any thread."""
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
    """Release what this process owns, before it ends in an unusual way."""
    for ownership in list(_held):
        ownership.release()


def _claim(directory: Path, owner: Owner, mine: Path, tell: Tell, sleep: Callable[[float], None]) -> int:
    while True:
        holder = _newest(directory)
        if holder is not None:
            _wait_for_end(directory, holder, owner, mine, tell, sleep)
        generation = holder.generation + 1 if holder else 1
        if not _link(mine, _path(directory, generation)):
            continue  # another claimant was first: judge that one
        newest = _newest(directory)
        if newest is not None and newest.generation == generation:
            return generation
        # The list of names was old: a file that a later owner had deleted was made a second time.
        _path(directory, generation).unlink(missing_ok=True)


def _wait_for_end(
    directory: Path, holder: Holder, owner: Owner, mine: Path, tell: Tell, sleep: Callable[[float], None]
) -> None:
    """Return when the holder is known to be gone."""
    first_beat, has_told = holder.beat_ns, False
    while True:
        os.utime(mine)  # what the file server's clock says now
        silent_seconds = max(0, mine.stat().st_mtime_ns - holder.beat_ns) / 1e9
        verdict = judge(holder.owner, owner, silent_seconds)
        if verdict is Verdict.FREE:
            return
        if verdict is Verdict.HELD or holder.beat_ns != first_beat:
            raise RunDirectoryError(
                f"{directory} is in use: generation {holder.generation} ({holder.owner}) works there. Choose another "
                "--run-dir, or wait until that job has ended, or stop it: kill -TERM its process"
            )
        if not has_told:
            has_told = True
            tell(
                f"bagpipe: note: {directory} belongs to {holder.owner}, last seen {silent_seconds:.0f} s ago: waiting "
                f"for its next sign of life; after {STALE_SECONDS:.0f} s without one this job takes over"
            )
        sleep(POLL_SECONDS)
        try:
            holder = replace(holder, beat_ns=_beat_ns(_path(directory, holder.generation)))
        except FileNotFoundError:
            return  # another claimant was first


def _newest(directory: Path) -> Holder | None:
    """The owner with the highest generation; None: there never was one."""
    for _ in range(_MAX_LISTINGS):
        generation = max(_generations(directory), default=0)
        if generation == 0:
            return None
        path = _path(directory, generation)
        # A later start has deleted a file that is gone, so there is a newer one: an older one must not be taken for it.
        with suppress(FileNotFoundError):
            return Holder(generation, _read(path), _beat_ns(path))
        time.sleep(_LISTING_SECONDS)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _generations(directory: Path) -> list[int]:
    """Numbers of the owners' files.

    Raises:
        RunDirectoryError: an entry of such a name is no file, so it was not made by a job.
    """
    generations = []
    for path in directory.iterdir():
        if found := _NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise RunDirectoryError(
                        f"{path} is not a file of a job, so nothing says who owns {directory}; delete it"
                    )
            generations.append(int(found[1]))
    return generations


def _beat_ns(path: Path) -> int:
    """When the owner showed last that it lives. NFS asks the server about an open file, and does not trust a cache."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _read(path: Path) -> Owner:
    """Of a damaged file nothing is known but the time of its last heartbeat."""
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
    """A finished file beside the others, with a name that nobody else uses."""
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
    """Give a finished file a second name, which only one claimant can; False if another one was first."""
    try:
        os.link(source, target)
    except FileExistsError:
        return source.stat().st_nlink == 2  # NFS may answer a repeated request: the first one had made the name
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return _create(target, source.read_bytes())
    return True


def _create(target: Path, content: bytes) -> bool:
    """The same where there are no second names. Until the content is there, only the time of the file is known."""
    try:
        write_durably(target, content)
    except FileExistsError:
        return False
    return True


def _path(directory: Path, generation: int) -> Path:
    return directory / f".owner-{generation:06d}"


def _sweep(directory: Path, generation: int) -> None:
    """Delete the files of earlier owners, which are fenced by that, and what claimants that were killed left behind."""
    now = _beat_ns(_path(directory, generation))
    for path in list(directory.iterdir()):
        found = _NAME.fullmatch(path.name)
        is_earlier = found is not None and int(found[1]) < generation
        with suppress(FileNotFoundError):
            is_left = path.name.startswith(_UNFINISHED) and (now - path.stat().st_mtime_ns) / 1e9 > STALE_SECONDS
            if is_earlier or is_left:
                path.unlink()
