from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bagpipe_hpc.simulation.network import Network
from bagpipe_hpc.sizing.compute_time import ComputeTime
from bagpipe_hpc.sizing.memory import Sizes
from bagpipe_hpc.sizing.recommendation import (
    CACHE_SHARES,
    Job,
    Prediction,
    grid,
    predict,
    recommend,
    recommended_rows,
    smaller_caches,
)
from bagpipe_hpc.sizing.workload import Choice

from .test_workload import SCHEMA, batch

JOB = Job(
    compute=ComputeTime(0.0, 0.5, "given"),
    dense_bytes=4.0,
    wire_bytes=4,
    is_overlapped=True,
    oracle_threads=2,
    network=Network("1Mbit", 125e3),
    echoes_gets=False,
    trainers_per_node=2,
    sizes=Sizes(10, 1.0, 0, 4, 0),
)
BATCHES = [batch(0, 1), batch(2, 3), batch(4, 5), batch(6, 7), batch(0, 1)]


def prediction(seconds: float, choice: Choice) -> Prediction:
    found = predict(BATCHES, SCHEMA, Choice(1, 1, 2, 4, 0), JOB)
    return replace(found, choice=choice, cost=replace(found.cost, seconds=seconds))


def test_grid() -> None:
    assert grid((1, 4), (1,), (2, 8), (2,), (0, 3)) == [
        Choice(1, 1, 2, 2, 0),
        Choice(1, 1, 8, 2, 0),
        Choice(4, 1, 8, 2, 0),
    ]


def test_trainers_of_a_node_share_a_link() -> None:
    assert JOB.links(Choice(3, 2, 8, 4, 4)).hosts == (0, 0, 1, 2, 2, 3)


def test_prediction() -> None:
    found = predict(BATCHES, SCHEMA, Choice(1, 1, 2, 4, 0), JOB)
    assert found.choice.cache_rows == found.memory.cache_rows == 6
    assert found.cost.seconds >= 1.0  # two samples
    assert found.samples_per_second == pytest.approx(2 / found.cost.seconds)
    assert found.rows["fetched"] == (2.0, 2.0)
    assert recommended_rows(found) == 8
    assert json.loads(json.dumps(found.to_json()))["bottlenecks"][0] == "computing"


def test_equally_fast_choices_go_by_ranks_batch_and_window() -> None:
    fast, few, slow = Choice(4, 2, 8, 4, 0), Choice(4, 1, 8, 4, 0), Choice(1, 1, 8, 1, 0)
    given = [prediction(1.0, fast), prediction(1.02, few), prediction(2.0, slow)]
    assert recommend(given).choice == few
    assert recommend([given[0], given[2]]).choice == fast
    short = replace(few, window=2)
    assert recommend([*given, prediction(1.0, short)]).choice == short


def test_smaller_caches() -> None:
    noted: list[int] = []
    best = predict(BATCHES, SCHEMA, Choice(1, 1, 2, 4, 0), JOB)
    found = smaller_caches(BATCHES, SCHEMA, best, JOB, noted.append)
    assert [each.share for each in found] == list(CACHE_SHARES)
    assert [each.rows for each in found] == [6, 5, 5, 4, 3, 2]
    forced = [each.prediction and each.prediction.rows["forced out"][0] for each in found]
    assert forced[0] == 0
    assert forced[-1] is None  # too small
    assert noted == [1, 2, 3, 4, 5, 6]
