"""The limits that the system sets to a process, and hints about them in messages of errors."""

from __future__ import annotations

import errno
import resource

from bagpipe_hpc.errors import PlatformError

# Files of MPI, shards, checkpoints and logs. A rank needs one more for each rank that it communicates with.
FILES_OF_A_RANK = 32
MIB = 2**20

_MORE_FILES = "raise it before the job is started: ulimit -n 4096"


def open_files_limit() -> int:
    """Return how many files this process may have open: 2**31 if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if limit == resource.RLIM_INFINITY else limit


def require_open_files(limit: int, num_ranks: int) -> None:
    """Check that every rank may have enough files open.

    Args:
        limit: The smallest limit of all ranks.
        num_ranks: The number of ranks of the job.
    Raises:
        PlatformError: the limit is too low. The message names the limit and the need.
    """
    needed = FILES_OF_A_RANK + num_ranks
    if limit < needed:
        raise PlatformError(
            f"a rank may have {limit} files open (ulimit -n), and a job of {num_ranks} ranks needs {needed}: "
            f"{_MORE_FILES}"
        )


def hint_of(error: BaseException) -> str:
    """Return which limit an error is about and what to do; an empty string if it is about no limit.

    The result begins with a semicolon: it follows the text of the error.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return f"; the limit is {open_files_limit()} open files (ulimit -n): {_MORE_FILES}"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "allocate memory" in str(error):
        return f"; {memory_hint()}"
    return ""


def memory_hint() -> str:
    """Return what to do if memory cannot be allocated."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        return f"this rank may use {limit // MIB:,} MiB of address space (ulimit -v): raise that limit"
    return (
        "memory is full: lower cache.rows or training.batch_size, raise the memory limit of the job, or use more nodes"
    )
