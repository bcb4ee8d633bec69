"""Random numbers that are hashes of their purpose, so that any part of a synthetic data set can be made anywhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.splitmix import mix

Float64Array = NDArray[np.float64]


def bias_for(logits: Float64Array, rate: float) -> float:
    """Return the bias with which the mean of the logistic function of logits + bias is rate, found by bisection."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(1 / (1 + np.exp(-(logits + middle)))) < rate else (low, middle)
    return low


@compiled
def hash_of(seed: np.uint64, stream: int, counter: int) -> np.uint64:
    """Return 64 random bits for one purpose (stream) and one sample or rank (counter)."""
    return mix(mix(seed + np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(counter))


@compiled
def uniform(bits: np.uint64) -> float:
    """Return a number in (0, 1)."""
    return (np.float64(bits >> np.uint64(12)) + 0.5) * 2.0**-52


@compiled
def normal(bits: np.uint64) -> float:
    """Return a nearly standard normal number: the sum of four 16-bit uniforms, scaled to unit variance."""
    mask = np.uint64(0xFFFF)
    total = np.float64(bits & mask) + np.float64((bits >> np.uint64(16)) & mask)
    total += np.float64((bits >> np.uint64(32)) & mask) + np.float64(bits >> np.uint64(48))
    return (total / 65536.0 - 2.0) * math.sqrt(3.0)


@compiled
def zipf_rank(uniform: float, num_rows: int, skew: float) -> int:
    """Return a rank in [0, num_rows): inverse distribution function of the density x^-skew on [0.5, num_rows + 0.5]."""
    span = math.log(2.0 * num_rows + 1.0)
    power = 1.0 - skew
    log_x = uniform * span if abs(power) < 1e-9 else math.log1p(uniform * math.expm1(power * span)) / power
    return min(num_rows - 1, int(0.5 * math.exp(log_x) - 0.5))
