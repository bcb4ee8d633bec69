"""Limits that the system sets to a process, and which one an error is about."""

from __future__ import annotations

import errno
import resource

from bagpipe_hpc.errors import PlatformError

FILES_OF_A_RANK = 32  # MPI's, shards, checkpoints, logs; each rank that it talks to over a network takes one more
MIB = 2**20

_MORE_FILES = "raise it before the job is started: ulimit -n 4096"


def open_files_limit() -> int:
    """Files that this process may have open; a very large number where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if limit == resource.RLIM_INFINITY else limit


def require_open_files(limit: int, num_ranks: int) -> None:
    """See that a rank may open what it must.

    Args:
        limit: The smallest of all ranks.
    Raises:
        PlatformError: names limit and need.
    """
    needed = FILES_OF_A_RANK + num_ranks
    if limit < needed:
        raise PlatformError(
            f"a rank may have {limit} files open (ulimit -n), and a job of {num_ranks} ranks needs {needed}: "
            f"{_MORE_FILES}"
        )


def hint_of(error: BaseException) -> str:
    """Which limit an error is about, and what to do, to be put behind its text; empty: about none."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return f"; the limit is {open_files_limit()} open files (ulimit -n): {_MORE_FILES}"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "allocate memory" in str(error):
        return f"; {memory_hint()}"
    return ""


def memory_hint() -> str:
    """What to do where memory cannot be had."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        return f"this rank may use {limit // MIB:,} MiB of address space (ulimit -v): raise that limit"
    return (
        "memory is full: lower cache.rows or training.batch_size, raise the memory limit of the job, or use more nodes"
    )
