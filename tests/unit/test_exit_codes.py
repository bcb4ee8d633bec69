"""The exit codes of jobs that an error ends."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import CacheTooSmallError, CheckpointError, FencedError, ProtocolError, TableFullError
from bagpipe_hpc.exit_codes import EXIT_FAILURE, EXIT_INVALID, exit_code_of, exit_code_of_failure


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CacheTooSmallError("raise cache.rows"), EXIT_INVALID),
        (FencedError("a later start"), EXIT_INVALID),
        (CheckpointError("the disk is full"), EXIT_FAILURE),
        (ProtocolError("damaged"), EXIT_FAILURE),
        (KeyError("x"), EXIT_FAILURE),
    ],
)
def test_the_error_of_one_rank(error: Exception, code: int) -> None:
    assert exit_code_of_failure(error) == code


def test_errors_of_a_command_on_ranks() -> None:
    assert exit_code_of_failure(CheckpointError("the disk is full"), EXIT_INVALID) == EXIT_INVALID
    assert exit_code_of_failure(ValueError("x"), EXIT_INVALID) == EXIT_FAILURE


def test_an_error_that_all_ranks_have() -> None:
    assert exit_code_of(TableFullError("raise capacity")) == EXIT_INVALID
