from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.protocol.codec import encode_plan
from bagpipe_hpc.sizing.workload import Choice, Workload, mean_and_peak, play_plans

SCHEMA = Schema(dense=(), tables=(TableSchema(name="item", num_embeddings=10),))


def batch(*ids: int) -> Batch:
    column = np.array(ids, np.int32)[:, None]
    return Batch(np.zeros(len(ids), np.float32), np.empty((len(ids), 0), np.float32), column)


def played(batches: list[Batch], **choice: int) -> Workload:
    return play_plans(batches, SCHEMA, replace(Choice(1, 1, 2, 1, 0), **choice))  # type: ignore[arg-type]


def test_one_trainer_keeps_a_row_that_the_window_shows_again() -> None:
    workload = played([batch(1, 2), batch(1, 3), batch(4, 4)], num_servers=2)
    assert workload.num_samples.tolist() == [2, 2, 2]
    assert workload.unique_rows.tolist() == [[2], [2], [1]]
    # Key k is on server k mod 2. Row 1 stays, so iteration 1 fetches row 3 alone.
    assert workload.fetched.tolist() == [[[1, 1]], [[0, 1]], [[1, 0]]]
    assert workload.written_back.tolist() == [[[1, 0]], [[0, 2]], [[1, 0]]]
    assert workload.forced.tolist() == [0, 0, 0]
    assert not workload.pushed.any()
    assert workload.plan_bytes.shape == (3, 3)
    assert workload.slots == 3
    assert workload.oracle_seconds > 0
    assert workload.steady == slice(1, 2)


def test_synchronous_fetches_every_row() -> None:
    workload = played([batch(1, 2), batch(1, 2)], window=0)
    assert workload.fetched.sum(axis=(1, 2)).tolist() == [2, 2]
    assert workload.written_back.sum(axis=(1, 2)).tolist() == [2, 2]


def test_two_trainers_push_a_row_that_both_use() -> None:
    workload = played([batch(1, 1), batch(1, 1), batch(5, 6)], num_trainers=2)
    # Iteration 1 uses the row that iteration 0 updates: its push is critical, as is the gradient in iteration 0.
    (owner,) = {int(each) for each in np.nonzero(workload.pushed.sum(axis=(0, 1, 3)))[0]}
    other = 1 - owner
    assert workload.pushed[0, other, owner].tolist() == [0, 1, 0, 0]
    assert workload.pushed[1, other, owner].tolist() == [0, 0, 0, 1]
    assert workload.pushed.sum() == 2


def test_a_small_cache_forces_rows_out_and_a_smaller_one_ends() -> None:
    batches = [batch(0, 1), batch(2, 3), batch(4, 5), batch(6, 7), batch(0, 1)]
    assert played(batches, window=4).forced.sum() == 0
    assert played(batches, window=4).slots == 6
    assert played(batches, window=4, cache_rows=5).forced.sum() == 1
    with pytest.raises(CacheTooSmallError, match=r"raise cache\.rows"):
        played(batches, window=4, cache_rows=1)


def test_locality_assigns_samples_and_progress_is_told() -> None:
    noted: list[int] = []
    batches = [batch(1, 2, 1, 2), batch(1, 2, 1, 2)]
    workload = play_plans(batches, SCHEMA, Choice(2, 1, 4, 1, 0, is_local=True), noted.append)
    assert noted == [1, 2]
    assert workload.unique_rows[1].tolist() == [1, 1]
    assert played(batches, num_trainers=2, batch_size=4).unique_rows[1].tolist() == [2, 2]


def test_plan_bytes_are_those_of_the_messages() -> None:
    from bagpipe_hpc.lookahead.planner import Planner

    batches = [batch(1, 2), batch(2, 3)]
    planner = Planner(num_embeddings=(10,), num_trainers=1, num_servers=1, window=1, prefetch_depth=0, cache_rows=100)
    expected = [encode_plan(plan).num_bytes for plan in planner.plans(batches)]
    assert played(batches).plan_bytes.sum(axis=1).tolist() == expected


def test_mean_and_peak() -> None:
    assert mean_and_peak(np.arange(101)) == (50.0, 95.0)
