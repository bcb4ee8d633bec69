"""An open-addressing hash table with linear probing, for compiled loops.

A table is an array of keys; what belongs to a key stands at the same place of other arrays. Keys are not negative.
Callers keep at least half of the places free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.splitmix import mix

FREE = -1  # the key of a free place


def free_places(num_places: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return the keys of an empty table.

    Args:
        num_places: A power of two.
        dtype: Signed integer type that holds every key.
    """
    return np.full(num_places, FREE, dtype)


@compiled
def home_of(key: int, num_places: int) -> np.uint64:
    """The place where the search for a key begins."""
    return mix(np.uint64(key)) & np.uint64(num_places - 1)


@compiled
def place_of(key: int, keys: NDArray[Any]) -> np.uint64:
    """The place of a key, or the free place where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = home_of(key, len(keys))
    while keys[place] != FREE and keys[place] != key:
        place = (place + np.uint64(1)) & mask
    return place
