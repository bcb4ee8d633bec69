"""Handshakes between ranks that are threads, over communicators in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from bagpipe_hpc import errors
from bagpipe_hpc.errors import BagpipeError, DivergedError, JobStopped
from bagpipe_hpc.protocol import handshakes
from bagpipe_hpc.protocol.handshakes import (
    agree_on_cache_rows,
    agree_on_end,
    agree_on_outcome,
    collect_totals,
    decode_outcome,
    encode_outcome,
    piece_starts,
    receive_dense_parameters,
    receive_model_rows,
    send_dense_parameters,
    send_model_rows,
    send_totals,
)
from bagpipe_hpc.protocol.totals import RankTotals, ServerTotals, TrainerTotals
from bagpipe_hpc.sharding import Sharding
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.memory_comm import MemoryComm
from bagpipe_hpc.transport.ports import CommWorld

TOPOLOGY = Topology(world_size=5, num_servers=2)
ORACLE, SERVERS, TRAINERS = 0, (1, 2), (3, 4)


def on_all_ranks(play: Callable[[CommWorld], Any]) -> list[Any]:
    """What each rank returns."""
    ends = [CommWorld(cast(Any, end)) for end in MemoryComm.world(TOPOLOGY.world_size)]
    with ThreadPoolExecutor(len(ends)) as pool:
        return list(pool.map(play, ends, timeout=30))


def test_the_smallest_limit_holds_for_all() -> None:
    limits = {3: 70, 4: 9}
    assert on_all_ranks(lambda world: agree_on_cache_rows(world, limits.get(world.rank))) == [9] * 5


@pytest.mark.parametrize("decision", [True, False])
def test_the_oracle_says_whether_the_job_is_complete(decision: bool) -> None:
    found = on_all_ranks(lambda world: agree_on_end(world, decision if world.rank == ORACLE else None))
    assert found == [decision] * 5


def trainer_totals(trainer: int) -> TrainerTotals:
    times = np.arange(3.0) + trainer
    return TrainerTotals(
        seconds=1.5 + trainer,
        evaluation_seconds=0.1,
        iteration_seconds=times,
        working_seconds={"main": times},
        seconds_by_cause={"compute": 0.3},
        delayed_seconds_by_cause={},
        iterations=4,
        samples=64,
        rows_fetched=1,
        rows_written_back=2,
        rows_pushed=3,
        bytes_exchanged=4,
        bytes_fetched=5,
        bytes_written_back=6,
        bytes_dense=7,
        device="cpu",
        threads=2,
    )


def test_totals_come_to_the_oracle_by_role() -> None:
    def play(world: CommWorld) -> RankTotals | None:
        if world.rank == ORACLE:
            return collect_totals(world, TOPOLOGY)
        rank = world.rank
        send_totals(world, ServerTotals(10 * rank) if rank in SERVERS else trainer_totals(TRAINERS.index(rank)))
        return None

    totals = on_all_ranks(play)[ORACLE]
    assert totals.servers == (ServerTotals(10), ServerTotals(20))
    for found, expected in zip(totals.trainers, map(trainer_totals, range(2)), strict=True):
        for name, value in vars(expected).items():
            np.testing.assert_equal(getattr(found, name), value)


def test_the_model_comes_to_the_oracle_in_the_order_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "ROWS_PER_PIECE", 3)
    sharding = Sharding(num_keys=19, num_servers=2)
    touched = np.array([0, 1, 4, 5, 6, 7, 12, 13, 18])
    parameters = {"top.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "top.bias": np.zeros(2, np.float32)}

    def pieces(server: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        mine = touched[touched % 2 == server]
        cut = [mine[(mine // 2 >= start) & (mine // 2 < start + 3)] for start in piece_starts(sharding)]
        return [(keys, np.repeat(keys[:, None], 4, axis=1).astype(np.float32)) for keys in cut]

    def play(world: CommWorld) -> Any:
        if world.rank == ORACLE:
            dense = receive_dense_parameters(world, TOPOLOGY)
            return dense, list(receive_model_rows(world, TOPOLOGY, sharding, row_width=4))
        if world.rank in SERVERS:
            send_model_rows(world, sharding, pieces(SERVERS.index(world.rank)))
        elif world.rank == TRAINERS[0]:
            send_dense_parameters(world, parameters)
        return None

    dense, rows = on_all_ranks(play)[ORACLE]
    np.testing.assert_equal(dense, parameters)
    assert np.concatenate([keys for keys, _ in rows]).tolist() == touched.tolist()
    assert np.concatenate([values[:, 3] for _, values in rows]).tolist() == touched.tolist()


@pytest.mark.parametrize("error", [None, JobStopped("stopped after iteration 3"), DivergedError("the loss is nan")])
def test_all_ranks_know_the_outcome(error: BagpipeError | None) -> None:
    for found in on_all_ranks(lambda world: agree_on_outcome(world, error if world.rank == ORACLE else None)):
        assert (type(found), str(found)) == (type(error), str(error))


def test_every_error_of_the_package_travels() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BagpipeError)]
    for kind in kinds:
        assert type(decode_outcome(encode_outcome(kind("why")))) is kind


def test_a_name_in_a_message_makes_nothing_but_errors() -> None:
    for name in ("annotations", "Exception", "eval", "nothing"):
        found = decode_outcome(f'["{name}", "why"]'.encode())
        assert (type(found), str(found)) == (BagpipeError, "why")
