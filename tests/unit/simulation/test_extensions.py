"""Extensions of lookahead: they never lose rows, and each moves what it promises."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bagpipe_hpc.protocol.plan import Int64Array
from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.extensions import by_locality, play_extension, shared_by_most, without_keys
from bagpipe_hpc.simulation.planned_lookahead import between_nodes, play_lookahead
from bagpipe_hpc.simulation.traffic import Traffic

from .streams import stream_from, zipf

STREAM = zipf(4_000, 400, 1.0, seed=2)
BATCH, TRAINERS, ROWS = 200, 8, 1_000


def play(name: str | None, trainers_per_node: int = 4, row_bytes: int = 4) -> Traffic:
    accesses = accesses_of(STREAM, BATCH, TRAINERS)
    lookahead = partial(
        play_lookahead, window=50, prefetch_depth=1, cache_rows=ROWS, num_servers=2, row_bytes=row_bytes
    )
    if name is None:
        return lookahead(STREAM, accesses)
    return play_extension(STREAM, accesses, BATCH, lookahead, row_bytes, ROWS, name, trainers_per_node)


def sent(traffic: Traffic) -> float:
    return float((traffic.critical + traffic.late).sent.sum())


def test_a_16_bit_wire_halves_what_trainers_exchange() -> None:
    plain, narrow = play(None), play("16-bit-wire")
    assert narrow.critical.sent.sum() == plain.critical.sent.sum() / 2
    assert sent(narrow) == sent(plain) - 2 * plain.rows_exchanged
    assert narrow.rows_moved == plain.rows_moved


def test_locality_exchanges_fewer_rows() -> None:
    assert play("locality").rows_exchanged < play(None).rows_exchanged
    assert play("locality").rows_fetched == play(None).rows_fetched


def test_locality_reorders_whole_samples_within_batches() -> None:
    samples = [[0, 1], [2, 3], [0, 1], [2, 3], [4], [5, 6, 7]]
    stream = by_locality(stream_from(samples), 4, 2)
    found = [stream.keys[a:b].tolist() for a, b in zip(stream.sample_ends[:-1], stream.sample_ends[1:], strict=True)]
    assert sorted(found[:2]) in ([[0, 1], [0, 1]], [[2, 3], [2, 3]])
    assert sorted(found[:4]) == sorted(samples[:4])
    assert sorted(found[4:]) == samples[4:]


def test_rows_of_most_trainers_are_replicated() -> None:
    stream = stream_from([[0, 1], [0, 2], [0, 3], [0, 4]])
    hot = shared_by_most(accesses_of(stream, 2, 2))
    assert hot.tolist() == [True, False, False, False, False]
    cold = without_keys(stream, hot)
    assert (cold.keys.tolist(), cold.sample_ends.tolist()) == ([1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_replicated_rows_are_summed_over_all_trainers() -> None:
    traffic, accesses = play("hot-replicas"), accesses_of(STREAM, BATCH, TRAINERS)
    hot = shared_by_most(accesses)
    assert hot.any()
    assert traffic.num_pairs == play(None).num_pairs
    assert traffic.num_local > play(None).num_local
    num_hot = hot[accesses.entries[accesses.entry_ends[0] : accesses.entry_ends[1]]].sum()
    assert traffic.critical.sent[0].min() >= 2 * 7 / 8 * 4 * num_hot


def test_a_node_cache_moves_less_than_a_shared_link() -> None:
    shared, node = play("shared-links"), play("node-caches")
    assert shared.trainers_per_link == node.trainers_per_link == 4
    assert shared.critical.sent.shape == node.critical.sent.shape == (20, 2)
    assert sent(node) < sent(shared) < sent(play(None))


@pytest.mark.parametrize(
    ("trainers_per_node", "counts"), [(1, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
                                     (2, [[0, 22], [46, 0]]), (4, [[0]])]
)  # fmt: skip
def test_rows_between_nodes(trainers_per_node: int, counts: list[list[int]]) -> None:
    pushed: Int64Array = np.repeat(np.arange(1, 17).reshape(4, 4)[:, :, None], 4, axis=2)
    assert between_nodes(pushed, trainers_per_node)[:, :, 0].tolist() == counts
