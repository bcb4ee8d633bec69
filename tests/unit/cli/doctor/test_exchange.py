"""What `bagpipe doctor` says of the exchange of rows between trainers."""

from __future__ import annotations

import pytest

from bagpipe_hpc.cli.doctor.exchange import judge_exchange
from bagpipe_hpc.cli.doctor.finding import Status


@pytest.mark.parametrize(
    ("faults", "status", "words"),
    [
        ({"a": "", "b": ""}, Status.OK, "from GPU to GPU"),
        ({"a": "no GPU", "b": "no GPU"}, Status.OK, "through host memory: no GPU"),
        ({"a": "", "b": "it crashes"}, Status.WARN, "through host memory: it crashes (at 1 of 2 hosts, first at b)"),
    ],
)
def test_how_a_job_exchanges_rows(faults: dict[str, str], status: Status, words: str) -> None:
    found, told, cure = judge_exchange(faults)
    assert (found, words in told) == (status, True), told
    assert (found is Status.OK) == (not cure)
