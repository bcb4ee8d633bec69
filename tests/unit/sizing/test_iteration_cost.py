from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.sizing.iteration_cost import (
    ORACLE_LINK,
    PLANNING,
    SERVER_LINKS,
    TRAINER_LINKS,
    TRAINERS,
    Links,
    TrainerCost,
    bytes_of,
    cost_of,
    dense_bytes_between,
)
from bagpipe_hpc.sizing.workload import Choice, Workload

# Ranks: the oracle and server 0 on host 0, server 1 on host 1, two trainers on hosts 2 and 3.
LINKS = Links(1000.0, 0.0, (0, 0, 1, 2, 3))
COST = TrainerCost(compute_seconds=1.0, dense_bytes=400.0, row_bytes=20, wire_bytes=10)


def workload(prefetch_depth: int = 4, **changes: Any) -> Workload:
    """One iteration. Trainer 0 pushes trainer 1 rows of the classes 0 to 3: 10, 20, 30 and 40."""
    pushed = np.zeros((1, 2, 2, 4), np.int64)
    pushed[0, 1, 0] = [10, 20, 30, 40]
    plain = Workload(
        choice=Choice(2, 2, 8, 8, prefetch_depth),
        num_samples=np.array([8]),
        unique_rows=np.array([[5, 6]]),
        fetched=np.array([[[1, 2], [3, 4]]]),
        written_back=np.array([[[5, 0], [0, 7]]]),
        forced=np.array([0]),
        pushed=pushed,
        plan_bytes=np.array([[1, 2, 300, 400]]),
        slots=9,
        oracle_seconds=0.5,
    )
    return replace(plain, **changes)


def test_bytes_by_path() -> None:
    moved = bytes_of(workload(), COST)
    assert moved.plans[0].tolist() == [0, 1, 2, 300, 400]
    assert moved.fetches[1].tolist() == [0, 0, 0, 20, 60]
    assert moved.fetches[2].tolist() == [0, 0, 0, 40, 80]
    assert moved.write_backs[3].tolist() == [0, 100, 0, 0, 0]
    assert moved.write_backs[4].tolist() == [0, 0, 140, 0, 0]
    assert (moved.critical_pushes[3, 4], moved.early_pushes[3, 4]) == (700, 300)
    assert (moved.critical_gradients[4, 3], moved.delayed_gradients[4, 3]) == (500, 500)
    assert (moved.dense[3, 4], moved.dense[4, 3]) == (400, 400)
    assert moved.by_path()["plans"] == 703
    assert moved.total.sum() == 703 + 200 + 240 + 1000 + 1000 + 800


def test_the_dense_sum_takes_the_way_of_the_mpi_backend() -> None:
    assert dense_bytes_between(400.0, 1).tolist() == [[0]]
    assert dense_bytes_between(4e6, 2)[0, 1] == 4e6
    assert dense_bytes_between(400.0, 3)[0, 1] == 400  # little: each sends all to all
    assert dense_bytes_between(3e6, 3)[0, 1] == pytest.approx(2e6)  # its segment, then the sum


def test_overlapped_iterations() -> None:
    found = cost_of(workload(), COST, LINKS)
    assert found.seconds_by_wait == pytest.approx(
        {"computing": 1.0, "pushes": 0.7, "gradients of rows": 0.5, "dense sum": 0.4}
    )
    resources = found.seconds_by_resource
    assert resources[TRAINERS] == pytest.approx(2.6)
    # Host 3 receives the plan, fetches, all pushes and dense gradients; host 0 sends plans and fetches.
    assert resources[TRAINER_LINKS] == pytest.approx((400 + 140 + 1000 + 400) / 1000)
    assert resources[SERVER_LINKS] == resources[ORACLE_LINK] == pytest.approx((2 + 300 + 400 + 80) / 1000)
    assert resources[PLANNING] == 0.5
    assert found.seconds == pytest.approx(2.6)
    assert found.bottlenecks == ("computing", TRAINER_LINKS)


def test_without_overlap_trainers_wait_for_more() -> None:
    found = cost_of(workload(), replace(COST, is_overlapped=False), LINKS).seconds_by_wait
    assert (found["pushes"], found["gradients of rows"]) == pytest.approx((1.0, 1.0))
    assert found["write-backs"] == pytest.approx(0.14)
    assert "fetches" not in found
    alone = cost_of(workload(prefetch_depth=0), COST, LINKS).seconds_by_wait
    assert alone["fetches"] == pytest.approx(0.14)
    assert alone["write-backs"] == pytest.approx(0.14)


def test_planning_and_servers_can_be_the_bottleneck() -> None:
    slow = cost_of(workload(oracle_seconds=9.0), replace(COST, oracle_speedup=2.0), LINKS)
    assert (slow.seconds, slow.bottlenecks) == (4.5, (PLANNING, "computing"))
    busy = cost_of(workload(fetched=np.array([[[200, 0], [200, 0]]])), COST, LINKS)
    assert busy.bottlenecks[0] == SERVER_LINKS


def test_properties_of_links() -> None:
    gets = cost_of(workload(prefetch_depth=0), COST, replace(LINKS, echoes_gets=True))
    assert gets.seconds_by_wait["fetches"] == pytest.approx(0.28)
    plain = cost_of(workload(), COST, LINKS).seconds_by_wait
    burst = cost_of(workload(), COST, replace(LINKS, burst_bytes=800.0)).seconds_by_wait
    assert sum(plain.values()) - sum(burst.values()) == pytest.approx(0.8)
    large = cost_of(workload(), COST, replace(LINKS, burst_bytes=1e6)).seconds_by_wait
    assert sum(large.values()) == pytest.approx(1.0)
    serial = cost_of(workload(), COST, replace(LINKS, exchange_factor=2.0)).seconds_by_wait
    assert sum(serial.values()) == pytest.approx(1.0 + 2 * 1.6)
    late = cost_of(workload(prefetch_depth=0), COST, replace(LINKS, latency_seconds=0.01)).seconds_by_wait
    assert late["fetches"] == pytest.approx(0.14 + 0.03)


def test_ranks_of_one_host_talk_for_free() -> None:
    found = cost_of(workload(), COST, replace(LINKS, hosts=(0, 0, 0, 0, 0)))
    assert found.seconds == pytest.approx(1.0)
    assert found.seconds_by_resource[TRAINER_LINKS] == 0


def test_backward_hides_all_but_the_last_bucket_of_the_dense_sum() -> None:
    large = replace(COST, dense_bytes=float(4 << 19))
    fast = replace(LINKS, bytes_per_second=float(4 << 19))
    assert cost_of(workload(), large, fast).seconds_by_wait["dense sum"] == pytest.approx(1 / 3)
    slow = cost_of(workload(), replace(large, compute_seconds=9.0), fast)
    assert slow.seconds_by_wait["dense sum"] == pytest.approx(0.25)
