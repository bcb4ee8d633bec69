"""The newest order of each key: a number, such as a time, that must not fall from one line of the key to the next."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.vocabulary import empty_table
from bagpipe_hpc.hash_table import place_of
from bagpipe_hpc.sharding import Int64Array

Float64Array = NDArray[np.float64]


class NewestOrder:
    """The largest order of the lines of each key. Memory grows with the keys, not with the lines."""

    def __init__(self) -> None:
        self._num_keys = 0
        self._keys, self._marks = empty_table(0, np.int64)
        self._orders = np.zeros(len(self._keys))

    def copy(self) -> Self:
        """Return a copy that changes on its own."""
        copied = type(self)()
        copied._num_keys = self._num_keys
        copied._keys, copied._marks, copied._orders = self._keys.copy(), self._marks.copy(), self._orders.copy()
        return copied

    def add(self, keys: Int64Array, orders: Float64Array) -> Float64Array:
        """Add lines.

        Args:
            keys: The key of each line, int64, shape (n,); negative: none.
            orders: The order of each line, float64, shape (n,).
        Returns:
            The largest order of earlier lines of the same key, float64, shape (n,); minus infinity: there is none.
        """
        self._make_room(len(keys))
        before = np.full(len(keys), -np.inf)
        self._num_keys += _add(keys, orders, before, self._keys, self._marks, self._orders)
        return before

    def items(self) -> tuple[Int64Array, Float64Array]:
        """Return the keys, int64, and their orders, float64, each shape (num_keys,), in any order."""
        used = self._marks > 0
        return self._keys[used], self._orders[used]

    def _make_room(self, num_new: int) -> None:
        most = self._num_keys + num_new
        if 2 * most > len(self._keys):
            keys, orders = self.items()
            self._keys, self._marks = empty_table(2 * most, np.int64)
            self._orders = np.zeros(len(self._keys))
            _add(keys, orders, np.empty(len(keys)), self._keys, self._marks, self._orders)


@compiled
def _add(
    lines: Int64Array,
    new: Float64Array,
    before: Float64Array,
    keys: Int64Array,
    marks: NDArray[Any],
    orders: Float64Array,
) -> int:
    """Add lines and fill `before`; return how many keys were new."""
    num_new = 0
    for i in range(len(lines)):
        if lines[i] < 0:
            continue
        place = place_of(lines[i], keys, marks)
        if marks[place] == 0:
            keys[place], marks[place], orders[place] = lines[i], 1, new[i]
            num_new += 1
        else:
            before[i] = orders[place]
            orders[place] = max(orders[place], new[i])
    return num_new
