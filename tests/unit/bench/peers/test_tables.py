"""Tables of the PyTorch peers."""

from __future__ import annotations

from bagpipe_hpc.bench.peers.tables import dealt_tables


def test_tables_are_dealt_evenly_by_number_and_by_rows() -> None:
    assert dealt_tables([5, 100, 7, 90, 6], 2) == [[0, 1, 4], [2, 3]]
    assert dealt_tables([5], 2) == [[0], []]
