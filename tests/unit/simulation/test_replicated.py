"""The replicated cache, counted by hand and compared with a twin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.replicated import play_replicated

from .streams import Samples, samples_of_few_keys, shares, stream_from


def test_bytes_of_a_tiny_stream() -> None:
    """Row 0 is used in all three batches, by both trainers; rows 1 to 3 by one trainer once. Rows have 100 bytes."""
    samples = [[0, 1], [0], [0], [2, 3], [0], [0]]
    traffic = play_replicated(accesses_of(stream_from(samples), 2, 2), window=9, num_servers=1, row_bytes=100)
    assert traffic.rows_fetched == 2 + 3  # row 0 twice, the others once
    assert traffic.rows_written == 1 + 3
    assert traffic.rows_exchanged == 2 * 3
    # Both trainers all-reduce one row per batch; the next batch uses it, but for the last one.
    assert traffic.critical.received.tolist() == [[100, 100], [100, 100], [0, 0]]
    assert traffic.late.received.tolist() == [[200, 100], [0, 200], [100, 100]]
    assert traffic.num_local == 3  # row 0 in the second and third batch
    assert traffic.cache_rows == 1 + 2


@given(samples_of_few_keys, st.integers(1, 4), st.integers(1, 3), st.integers(0, 4))
def test_it_equals_a_twin(samples: Samples, batch_size: int, trainers: int, window: int) -> None:
    batches = shares(samples, batch_size, trainers)
    fetched = written = exchanged = local = 0
    for i, parts in enumerate(batches):
        for key in set().union(*parts):
            users = sum(key in part for part in parts)
            before = any(key in part for d in range(1, min(window, i) + 1) for part in batches[i - d])
            after = any(key in part for later in batches[i + 1 : i + 1 + window] for part in later)
            is_lonely = users == 1 and not before and not after
            fetched += 0 if before else 1 if is_lonely else trainers
            written += not after
            exchanged += 0 if is_lonely else 2 * (trainers - 1)
            local += users if before else 0
    traffic = play_replicated(accesses_of(stream_from(samples), batch_size, trainers), window, 1, 4)
    assert (traffic.rows_fetched, traffic.rows_written, traffic.rows_exchanged) == (fetched, written, exchanged)
    assert traffic.num_local == local
