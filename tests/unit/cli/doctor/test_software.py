"""What `bagpipe doctor` makes of places for machine code that this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.cli.doctor.finding import Status
from bagpipe_hpc.cli.doctor.software import judge_code_cache
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
