"""Long curves keep their ends and their spikes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.report.thinning import kept_positions


def test_a_spike_stays() -> None:
    values = [0.0] * 100_000
    values[54_321], values[77_777] = 9.0, -9.0
    kept = kept_positions(values, 100)
    assert {0, 54_321, 77_777, 99_999} <= set(kept)


@given(st.lists(st.floats(allow_nan=False), max_size=300), st.integers(4, 50))
def test_few_points_stay_in_order_with_the_extremes(values: list[float], most: int) -> None:
    kept = kept_positions(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, 0)
    if values:
        assert {kept[0], kept[-1]} == {0, len(values) - 1}
        assert min(values) == min(values[place] for place in kept)
        assert max(values) == max(values[place] for place in kept)
