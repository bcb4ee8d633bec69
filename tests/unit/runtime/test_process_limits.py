"""Limits of a process are named where an error is about them."""

from __future__ import annotations

import errno
import os

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.runtime.process_limits import hint_of, require_open_files


def test_open_files() -> None:
    with pytest.raises(
        PlatformError, match=r"a rank may have 16 files open \(ulimit -n\), and a job of 3 ranks needs 35"
    ):
        require_open_files(16, 3)
    require_open_files(35, 3)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            "open files (ulimit -n): raise it before the job is started",
        ),
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"), "memory"),
    ],
)
def test_hints(error: BaseException, hint: str) -> None:
    assert hint in hint_of(error)


def test_other_errors_are_about_no_limit() -> None:
    assert hint_of(ValueError("of a kind")) == hint_of(OSError(errno.ENOENT, "No such file")) == ""
