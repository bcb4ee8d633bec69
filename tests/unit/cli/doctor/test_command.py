"""One finding of many ranks."""

from __future__ import annotations

from bagpipe_hpc.cli.doctor.command import merge
from bagpipe_hpc.cli.doctor.finding import Finding, Status


def test_the_worst_rank_speaks_for_a_check() -> None:
    fine = Finding("GPUs", Status.OK, "4 visible")
    bad = Finding("GPUs", Status.FAIL, "none", "ask")
    (merged,) = merge([[fine], [bad], [fine], [bad]])
    assert merged == Finding("GPUs", Status.FAIL, "none\n(on 2 of 4 ranks: 1, 3)", "ask")
    assert merge([[fine], [fine]]) == [fine]
