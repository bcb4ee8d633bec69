"""What ranks learn of the lines before their own."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.data.importing import earlier_lines
from bagpipe_hpc.data.importing.earlier_lines import entries_before, order_before
from bagpipe_hpc.data.importing.history_store import HistoryStore
from bagpipe_hpc.data.importing.newest_order import NewestOrder
from bagpipe_hpc.data.importing.ranks import Ranks
from tests.unit.data.importing.conftest import OnRanks

NUM_RANKS = 4
KEYS = [np.random.default_rng(rank).integers(0, 9, 0 if rank == 2 else 30) for rank in range(NUM_RANKS)]


def test_entries_of_all_earlier_ranks(on_ranks: OnRanks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_lines, "_ROUND_BYTES", 500)  # several rounds

    def learn(ranks: Ranks) -> HistoryStore:
        own, keys = HistoryStore(2, 7), KEYS[ranks.rank]
        numbers = 100 * ranks.rank + np.arange(len(keys))
        own.add(keys, np.ones(len(keys), np.bool_), np.stack([numbers, numbers + 5]))
        return entries_before(own, ranks, [lambda values: -values])

    expected = HistoryStore(2, 7)
    for rank, start in enumerate(on_ranks(NUM_RANKS, learn)):
        assert set(start.keys.tolist()) <= set(KEYS[rank].tolist()), "only keys of its own lines"
        for key in np.unique(KEYS[rank]):
            (_, found), (_, wanted) = start.read(np.array([key])), expected.read(np.array([key]))
            assert found.tolist() == wanted.tolist()
        numbers = 100 * rank + np.arange(len(KEYS[rank]))
        expected.add(KEYS[rank], np.ones(len(numbers), np.bool_), np.stack([-numbers, numbers + 5]))


def test_orders_of_all_earlier_ranks(on_ranks: OnRanks) -> None:
    def learn(ranks: Ranks) -> NewestOrder:
        own = NewestOrder()
        own.add(KEYS[ranks.rank], (KEYS[ranks.rank] * (-1) ** ranks.rank).astype(np.float64))
        return order_before(own, ranks)

    expected: dict[int, float] = {}
    for rank, start in enumerate(on_ranks(NUM_RANKS, learn)):
        found = dict(zip(*(each.tolist() for each in start.items()), strict=True))
        assert found == {key: expected[key] for key in expected if key in KEYS[rank]}
        for key in KEYS[rank].tolist():
            expected[key] = max(expected.get(key, -np.inf), key * (-1.0) ** rank)
