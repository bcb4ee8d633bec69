"""Counter-based random bits for compiled loops: equal counters give equal bits in any order of calls. Pure."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.compiled import compiled


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Return the finalizer of SplitMix64: a bijection of 64-bit integers that mixes all bits."""
    value = np.uint64(value)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
