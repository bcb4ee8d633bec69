"""What `bagpipe doctor` makes of places for machine code that this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.cli.doctor.finding import Status
from bagpipe_hpc.cli.doctor.software import judge_backends, judge_code_cache
from bagpipe_hpc.compiled import CodeCache


@pytest.mark.parametrize(
    ("cache", "named", "found"),
    [
        (CodeCache(Path("/p/__pycache__"), "the package"), None, ""),
        (CodeCache(Path("/n"), "NUMBA_CACHE_DIR"), "/n", ""),
        (CodeCache(Path("/p/__pycache__"), "the package"), "/n", "NUMBA_CACHE_DIR=/n is not writable"),
        (CodeCache(None, ""), None, "not kept"),
    ],
)
def test_where_machine_code_is_kept(cache: CodeCache, named: str | None, found: str) -> None:
    status, told, cure = judge_code_cache(cache, named)
    assert found in told
    assert (status is Status.OK) == (not found) == (not cure)


@pytest.mark.parametrize(
    ("faults", "status", "words"),
    [
        ([["", "", ""]] * 2, Status.OK, "mpi, horovod, nccl; a job uses horovod"),
        ([["", "no GPU", "no GPU"]] * 2, Status.OK, "mpi, horovod, no nccl (no GPU); a job uses mpi"),
        ([["no Horovod", "no GPU", ""]] * 2, Status.OK, "no horovod (no Horovod), no nccl (no GPU); a job uses mpi"),
        ([["", "no GPU", ""], ["no Horovod", "no GPU", ""]], Status.WARN, "a job uses mpi"),
    ],
)
def test_what_can_sum_dense_gradients(faults: list[list[str]], status: Status, words: str) -> None:
    found, told, cure = judge_backends(faults)
    assert (found, words in told) == (status, True), told
    assert (found is Status.OK) == (not cure)
