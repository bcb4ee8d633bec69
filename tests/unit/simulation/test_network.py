"""The cost model, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.network import Compute, Network, efficiency, iteration_seconds, parse_networks
from bagpipe_hpc.simulation.traffic import Flow, Traffic, allreduce_rounds

LINK = Network("test", bytes_per_second=100.0, latency_seconds=0.5)


def traffic(
    critical: float, late: float, server: float, *, waits_for_servers: bool = False, rounds: int = 2
) -> Traffic:
    first, second = (Flow(np.array([[each, 0.0]]), np.array([[0.0, each / 2]])) for each in (critical, late))
    return Traffic("test", 1, 0, 0, 0, 0, first, second, np.array([server]), waits_for_servers, rounds)


@pytest.mark.parametrize(
    ("moved", "seconds"),
    [
        (traffic(100, 0, 0), 5 * 0.25 + 1 + 2 * 0.5),
        (traffic(100, 1000, 0), 11),
        (traffic(100, 0, 900), 9),
        (traffic(100, 0, 900, waits_for_servers=True), 5 * 0.25 + 9 + 1),
    ],
)
def test_the_slowest_part_counts(moved: Traffic, seconds: float) -> None:
    found = iteration_seconds(moved, np.array([9]), Compute(0.25), LINK)
    assert found.tolist() == [seconds]
    assert efficiency(found, np.array([9]), 2, Compute(0.25)) == pytest.approx(9 * 0.25 / (2 * seconds))


def test_trainers_that_share_a_link_compute_side_by_side() -> None:
    shared = replace(traffic(100, 0, 0), trainers_per_link=4)
    assert iteration_seconds(shared, np.array([9]), Compute(0.25), LINK).tolist() == [2 * 0.25 + 1 + 2 * 0.5]
    assert shared.bytes_per_trainer == traffic(100, 0, 0).bytes_per_trainer / 4


def test_dense_gradients_are_summed_over_a_ring() -> None:
    found = iteration_seconds(traffic(0, 0, 0, rounds=0), np.array([2]), Compute(1.0, dense_bytes=300.0), LINK)
    assert found.tolist() == [1 + 300 / 100 + 2 * 0.5]


def test_rounds_of_an_allreduce() -> None:
    assert [allreduce_rounds(n) for n in (1, 2, 3, 4, 1024)] == [0, 2, 4, 4, 20]


def test_speeds_of_networks() -> None:
    assert parse_networks("10Gbit, 800mbit", 1e-6) == (Network("10Gbit", 1.25e9, 1e-6), Network("800mbit", 1e8, 1e-6))
    for wrong in ("10", "10GB", "0Gbit", "-1Gbit"):
        with pytest.raises(ConfigError, match=f"--networks has '{wrong}'; write speeds as 25Gbit or 800Mbit"):
            parse_networks(wrong)
    with pytest.raises(ConfigError, match="--networks is empty"):
        parse_networks(",")
