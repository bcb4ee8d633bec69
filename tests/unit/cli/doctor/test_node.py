"""What `bagpipe doctor` makes of cores, memory and limits that this machine does not have."""

from __future__ import annotations

import pytest

from bagpipe_hpc.cli.doctor.finding import Status
from bagpipe_hpc.cli.doctor.node import GIB, judge_bytes, judge_cores, judge_open_files


@pytest.mark.parametrize(
    ("numbers", "cure"),
    [((4, 4, 16, 16), ""), ((2, 3, 2, 2), "oversubscribed"), ((1, 2, 2, 16), "PE=8"), ((1, 1, 1, 16), "")],
)
def test_cores(numbers: tuple[int, int, int, int], cure: str) -> None:
    status, _, advice = judge_cores(*numbers)
    assert cure in advice
    assert (status is Status.OK) == (cure == "")


def test_memory_per_rank() -> None:
    assert judge_bytes("free", 4 * GIB, 4, "cure")[0] is Status.OK
    assert judge_bytes("free", 4 * GIB, 5, "cure")[::2] == (Status.WARN, "cure")


@pytest.mark.parametrize(
    ("limit", "num_ranks", "status"),
    [(16, 4, Status.FAIL), (1024, 4, Status.OK), (100, 4, Status.WARN), (1024, 1000, Status.FAIL)],
)
def test_open_files(limit: int, num_ranks: int, status: Status) -> None:
    found, text, cure = judge_open_files(limit, num_ranks)
    assert found is status
    assert f"{limit:,} files" in text
    assert ("ulimit -n 4096" in cure) == (status is not Status.OK)
