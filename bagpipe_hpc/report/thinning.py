"""Fewer points of a long curve, so that a page stays small. Spikes stay: each bucket keeps its extremes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

MAX_POINTS = 2000


def kept_positions(values: Sequence[float], max_points: int = MAX_POINTS) -> list[int]:
    """Return which points of a curve to draw, ascending: the first, the last, and the extremes of each bucket.

    Args:
        values: The values of the curve, in order.
        max_points: How many points may stay, at least 4. If there are no more, all stay.
    """
    count = len(values)
    if count <= max_points:
        return list(range(count))
    num_buckets = (max_points - 2) // 2
    kept = {0, count - 1}
    for bucket in range(num_buckets):
        positions = range(bucket * count // num_buckets, (bucket + 1) * count // num_buckets)
        kept.add(min(positions, key=values.__getitem__))
        kept.add(max(positions, key=values.__getitem__))
    return sorted(kept)
