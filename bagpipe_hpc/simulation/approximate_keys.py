"""Approximate-key caching: similar keys answer for each other, and auto-refresh bounds the error.

After Finamore et al., INFOCOM 2022. A function maps similar keys to one *approximate key*. The cache holds, for each
approximate key, the answer of the key that it was computed for. A request whose approximate key is cached is answered
with it, which is an *error* if the request was for another key. Every so many answers the cache computes the right
answer anyway (a *refresh*): after m refreshes in a row that found the answer right, the next one is due after
floor(beta^m) requests. A refresh that finds it wrong stores the right answer and begins with m = 0. So keys of which
one dominates are rarely computed, and keys that alternate often.

A request here is an id of a sample, and the right answer for it is its own row. Similar keys are rows of the same table
whose places among the rows that occur are equal modulo the number of approximate keys of the table (the hashing trick).
Imports number rows by falling count, so a frequent row shares its approximate key with rarer ones.

**The model.** Requests are independent: an access is to approximate key g with probability q_g, and then to key c with
probability p_c. A cached approximate key is asked for again before it leaves with probability h: for LRU, h = 1 -
exp(-q_g t) with the characteristic time t (`che`); for the ideal cache, which always holds the most frequent
approximate keys, h = 1 - 1/n after n requests, because only the first one misses. Let V_c be the expected number of
errors from the moment when the answer of c is stored until it leaves. A sum over the refreshes gives a_c, the errors
until c is found wrong, and b_c, the expected number of refreshes until then:

    V_c = a_c + b_c (sum over other keys d of p_d V_d)

which is linear in S = sum over c of p_c V_c. An approximate key has (1 - h) S errors per request. Refreshes are counted
in the same way, with b_c in the place of a_c. The paper's formulas were not at hand; this derivation models its rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Float64Array, Int32Array, Int64Array, ends
from bagpipe_hpc.simulation.accesses import NEVER
from bagpipe_hpc.simulation.che import characteristic_time
from bagpipe_hpc.simulation.hot_set import hottest
from bagpipe_hpc.simulation.stream import KeyStream

NO_REFRESH = 0.0  # in the place of beta: answers are never computed again
NEGLIGIBLE = 1e-12  # probability from which on the sum over refreshes ends


@dataclass(frozen=True)
class Answers:
    """What a cache answers, as shares of all requests.

    Args:
        hit_ratio: Answered without computing.
        error_ratio: Answered with the row of another key.
        refresh_ratio: Found in the cache, and computed anyway.
    """

    hit_ratio: float
    error_ratio: float
    refresh_ratio: float


@dataclass(frozen=True)
class ApproximateKeys:
    """The approximate key of each key.

    Args:
        of_keys: int32, shape (num_keys,).
        num_groups: Number of approximate keys.
    """

    of_keys: Int32Array
    num_groups: int


def group_keys(stream: KeyStream, similar: int) -> ApproximateKeys:
    """Give every `similar` rows of a table one approximate key."""
    tables = stream.rows[0]
    of_keys = np.empty(stream.num_keys, dtype=np.int32)
    num_groups = 0
    for table in np.unique(tables):
        members = np.flatnonzero(tables == table)
        groups = -(-len(members) // similar)
        of_keys[members] = num_groups + np.arange(len(members)) % groups
        num_groups += groups
    return ApproximateKeys(of_keys, num_groups)


def play_approximate(
    stream: KeyStream, groups: ApproximateKeys, cache_rows: int, beta: float, *, ideal: bool
) -> Answers:
    """Play all requests of a stream.

    Args:
        stream: The stream.
        groups: The approximate keys.
        cache_rows: Number of answers that the cache holds.
        beta: At least 1; NO_REFRESH: answers are never computed again.
        ideal: Whether the cache always holds the most frequent approximate keys. Otherwise it is LRU.
    """
    counts = np.bincount(groups.of_keys, weights=stream.counts(), minlength=groups.num_groups).astype(np.int64)
    may_enter = hottest(counts, cache_rows) if ideal else np.ones(groups.num_groups, dtype=np.bool_)
    stored, older, newer = np.full((3, groups.num_groups), NEVER, dtype=np.int32)
    powers = np.zeros(groups.num_groups)
    waits = np.zeros(groups.num_groups, dtype=np.int64)
    sums = np.zeros(3, dtype=np.int64)
    _play(stream.keys, groups.of_keys, may_enter, cache_rows, beta, stored, older, newer, powers, waits, sums)
    return Answers(*(sums / len(stream.keys)).tolist())


def model_approximate(
    stream: KeyStream, groups: ApproximateKeys, cache_rows: int, beta: float, *, ideal: bool
) -> Answers:
    """Return what the analytic model expects; arguments as in `play_approximate`."""
    key_counts = stream.counts()
    counts = np.bincount(groups.of_keys, weights=key_counts, minlength=groups.num_groups).astype(np.int64)
    shares = counts / counts.sum()
    again = 1 - 1 / np.maximum(counts, 1)
    if ideal:
        again = np.where(hottest(counts, cache_rows), again, 0.0)
    else:
        again = np.minimum(again, -np.expm1(-shares * characteristic_time(counts, cache_rows)))
    order = np.argsort(groups.of_keys, kind="stable")
    members = ends(np.bincount(groups.of_keys, minlength=groups.num_groups))
    chances = key_counts[order] / np.maximum(counts, 1)[groups.of_keys[order]]
    errors, refreshes = np.zeros((2, groups.num_groups))
    _expect(members, chances, again, beta, errors, refreshes)
    refresh_ratio = float((shares * (1 - again) * refreshes).sum())
    return Answers(
        float((shares * again).sum()) - refresh_ratio, float((shares * (1 - again) * errors).sum()), refresh_ratio
    )


@compiled
def _play(
    keys: Int32Array,
    groups: Int32Array,
    may_enter: NDArray[np.bool_],
    cache_rows: int,
    beta: float,
    stored: Int32Array,
    older: Int32Array,
    newer: Int32Array,
    powers: Float64Array,
    waits: Int64Array,
    sums: Int64Array,
) -> None:
    """Play all requests. `sums` gets the numbers of hits, errors and refreshes.

    `powers` has beta^m of each approximate key, `waits` the number of requests until its next refresh, the refresh
    included.
    """
    newest = oldest = NEVER
    num_rows = 0
    for place in range(len(keys)):
        key = keys[place]
        group = groups[key]
        if stored[group] != NEVER:
            waits[group] -= 1
            if beta == NO_REFRESH or waits[group] > 0:
                sums[0] += 1
                sums[1] += stored[group] != key
            else:
                sums[2] += 1
                powers[group] = powers[group] * beta if stored[group] == key else 1.0
                waits[group] = int(powers[group])
                stored[group] = key
            if group == newest:
                continue
            if older[group] == NEVER:
                oldest = newer[group]
            else:
                newer[older[group]] = newer[group]
            older[newer[group]] = older[group]
        elif may_enter[group]:
            stored[group] = key
            powers[group] = 1.0
            waits[group] = 1
            num_rows += 1
        else:
            continue
        older[group] = newest
        newer[group] = NEVER
        if newest == NEVER:
            oldest = group
        else:
            newer[newest] = group
        newest = group
        if num_rows > cache_rows:
            stored[oldest] = NEVER
            oldest = newer[oldest]
            older[oldest] = NEVER
            num_rows -= 1


@compiled
def _expect(
    members: Int64Array,
    chances: Float64Array,
    again: Float64Array,
    beta: float,
    errors: Float64Array,
    refreshes: Float64Array,
) -> None:
    """Write the expected errors and refreshes of each approximate key while it is cached."""
    for group in range(len(again)):
        h = again[group]
        if h == 0.0:
            continue
        error_sum = refresh_sum = weight_sum = 0.0  # of p a / (1 + b p), p b / (1 + b p), and p b / (1 + b p) again
        for place in range(members[group], members[group + 1]):
            p = chances[place]
            a, b = _until_wrong(p, h, beta)
            error_sum += p * a / (1 + b * p)
            refresh_sum += p * b / (1 + b * p)
            weight_sum += p * b / (1 + b * p)
        errors[group] = error_sum / (1 - weight_sum)
        refreshes[group] = refresh_sum / (1 - weight_sum)


@compiled
def _until_wrong(p: float, h: float, beta: float) -> tuple[float, float]:
    """Return the errors and the refreshes until a stored answer is found wrong or leaves.

    Args:
        p: Probability that a request is for the stored key.
        h: Probability that there is a next request before the answer leaves.
        beta: As in `play_approximate`.
    """
    if beta == NO_REFRESH:
        return (1 - p) * h / (1 - h), 0.0
    a = b = 0.0
    reached = power = 1.0  # the probability that this refresh interval begins, and beta^m
    while reached > NEGLIGIBLE:
        unchecked = int(power) - 1
        a += reached * (1 - p) * h * (1 - h**unchecked) / (1 - h)
        reached *= h ** (unchecked + 1)
        b += reached
        reached *= p
        power *= beta
    return a, b
