"""Parameter servers without caches, counted by hand."""

from __future__ import annotations

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.no_cache import play_no_cache

from .streams import stream_from


def test_bytes_of_a_tiny_stream() -> None:
    accesses = accesses_of(stream_from([[0, 1], [0], [2, 0, 2], [1, 3]]), 2, 2)
    traffic = play_no_cache(accesses, num_servers=2, row_bytes=100)
    assert (traffic.rows_fetched, traffic.rows_written, traffic.rows_exchanged) == (7, 7, 0)
    assert traffic.local_ratio == 0
    assert traffic.critical.received.tolist() == [[200, 100], [200, 200]]
    assert traffic.critical.sent.tolist() == [[232, 116], [232, 232]]
    assert traffic.server_bytes.tolist() == [232, 232]  # server 0 has key 0 twice, then keys 2 and 0
