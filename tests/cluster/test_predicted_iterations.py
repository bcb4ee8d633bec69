from __future__ import annotations

import pytest

from bagpipe_hpc.config import load_config
from tests.cluster.predicted_iterations import CASES, link_figures


def test_figures_of_a_link() -> None:
    # 1 MB/s after a burst of 100 kB, 1 ms per message and its answer; both directions take half as long again.
    one_way = {64: 1e-3, 500_000: 0.401, 2_000_000: 1.901}
    both = {300_000: 1.5 * 0.2005, 1_000_000: 1.5 * 0.9005}
    found = link_figures(one_way, {size: seconds + 5e-4 for size, seconds in both.items()})
    assert found.bytes_per_second == pytest.approx(1e6)
    assert (found.latency_seconds, found.burst_bytes) == pytest.approx((5e-4, 1e5))
    assert found.exchange_factor == pytest.approx(1.5, abs=0.01)


def test_cases_are_jobs() -> None:
    for case in CASES:
        config = load_config(None, case.settings)
        assert config.training.batch_size == case.trainers * case.samples
        assert len(case.hosts) == 1 + case.servers + case.trainers
