"""The rows that trainers exchange in an iteration: a block for each trainer, in the order of Gray classes.

A part of the rows is a set of neighbouring Gray classes (protocol/plan.py). In the block of a trainer, such a part is
one run of rows, or two if its classes are the last and the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Rows = NDArray[np.float32 | np.int16]
# int64, shape (number of runs, 2): the classes of each run, from the first up to and without the last
Part = Int64Array


def _part(*runs: tuple[int, int]) -> Part:
    return np.array(runs, dtype=np.int64)


EVERYTHING, NOTHING = _part((0, 4)), np.empty((0, 2), dtype=np.int64)
EARLY_PUSHES, CRITICAL_PUSHES = _part((0, 2)), _part((2, 4))
CRITICAL_GRADIENTS, DELAYED_GRADIENTS = _part((1, 3)), _part((0, 1), (3, 4))


class GrayBlocks:
    """Where each block and each Gray class begins.

    `edges` has the first row of each class of each trainer and, at last, the end of the trainer's block: int64, shape
    (T, 5).

    Args:
        counts: The number of rows by trainer and Gray class, int32, shape (T, 4).
    """

    def __init__(self, counts: Int32Array) -> None:
        self.edges = _edges(counts)

    def __len__(self) -> int:
        return int(self.edges[-1, 4])

    def counts(self, part: Part) -> Int64Array:
        """Return the number of rows of a part in each block, int64, shape (T,)."""
        return _counts(self.edges, part)

    def runs(self, part: Part, rows: Rows) -> list[tuple[int, Rows]]:
        """Return each trainer that has rows of a part, and these rows, which are one run.

        Args:
            part: Of one run.
            rows: All rows of the blocks, shape (len(self), columns).
        """
        ((first, stop),) = part.tolist()
        edges = zip(self.edges[:, first].tolist(), self.edges[:, stop].tolist(), strict=True)
        return [(trainer, rows[begin:end]) for trainer, (begin, end) in enumerate(edges) if end > begin]


@compiled
def _edges(counts: Int32Array) -> Int64Array:
    edges = np.empty((len(counts), 5), dtype=np.int64)
    end = 0
    for trainer in range(len(counts)):
        edges[trainer, 0] = end
        for gray_class in range(4):
            end += counts[trainer, gray_class]
            edges[trainer, gray_class + 1] = end
    return edges


@compiled
def _counts(edges: Int64Array, part: Part) -> Int64Array:
    counts = np.zeros(len(edges), dtype=np.int64)
    for trainer in range(len(edges)):
        for run in range(len(part)):
            counts[trainer] += edges[trainer, part[run, 1]] - edges[trainer, part[run, 0]]
    return counts
