"""The hit ratio of an LRU cache under independent references, by Che's approximation.

A row leaves an LRU cache of C rows when C other rows were used since its last use. For large caches that takes about
the same time t for every row, the *characteristic time*. With the probability p_k that an access is to row k, it solves

    sum over k of (1 - exp(-p_k t)) = C

and the hit ratio is the sum of p_k (1 - exp(-p_k t)). Time is counted in accesses.

Source: H. Che, Y. Tung, Z. Wang: Hierarchical Web Caching Systems, IEEE JSAC 2002.
"""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.protocol.plan import Float64Array, Int64Array

STEPS = 100  # of the bisection: more than a float64 can tell apart


def characteristic_time(counts: Int64Array, cache_rows: int) -> float:
    """Return how many accesses a row stays in the cache after its last use; infinity if all rows fit.

    Args:
        counts: How often each row is used, int64, shape (num_rows,).
        cache_rows: C.
    """
    values, weights = _distinct(counts)
    if cache_rows >= weights.sum():
        return float("inf")
    rates = values / (values * weights).sum()
    low, high = 0.0, float(cache_rows)
    while _occupied(rates, weights, high) < cache_rows:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _occupied(rates, weights, middle) < cache_rows:
            low = middle
        else:
            high = middle
    return high


def lru_hit_ratio(counts: Int64Array, cache_rows: int) -> float:
    """Return the share of accesses that find their row; arguments as in `characteristic_time`.

    If all rows fit, this is 1: compulsory misses are not part of the model.
    """
    values, weights = _distinct(counts)
    rates = values / (values * weights).sum()
    return float((weights * rates * -np.expm1(-rates * characteristic_time(counts, cache_rows))).sum())


def _distinct(counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the distinct counts above 0, and how many rows have each of them."""
    return np.unique(counts[counts > 0], return_counts=True)


def _occupied(rates: Float64Array, weights: Int64Array, time: float) -> float:
    return float((weights * -np.expm1(-rates * time)).sum())
