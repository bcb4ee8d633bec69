"""A hash table with open addressing and linear probing, for compiled loops.

A table is an array of keys and an array of marks. Both have `num_places` elements, a power of two. A place is free if
its mark is 0, so every integer can be a key. Callers keep at least half of the places free. To insert a key, they write
it and a mark other than 0 to the place that `place_of` returns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.splitmix import mix


@compiled
def home_of(key: int | np.int64, num_places: int) -> np.uint64:
    """Return the place where the search for a key begins."""
    return mix(np.uint64(key)) & np.uint64(num_places - 1)


@compiled
def place_of(key: int | np.int64, keys: NDArray[Any], marks: NDArray[Any]) -> np.uint64:
    """Return the place of a key; for a key that is not in the table, the free place where it belongs.

    Args:
        key: Any integer.
        keys: Of any integer type, shape (num_places,).
        marks: Of any integer type, shape (num_places,).
    """
    mask = np.uint64(len(keys) - 1)
    place = home_of(key, len(keys))
    while marks[place] != 0 and np.int64(keys[place]) != key:
        place = (place + np.uint64(1)) & mask
    return place
