"""The two sides of the row transport. One contract test suite runs against every implementation.

All of them keep this protocol, with P the prefetch depth:

    server, for n = 0, 1, 2, ...                       trainer
      1. absorb(n-P-1): wait until every trainer has    3. fetch(n): wait for 2 of every server, take the rows.
         written, then scatter                             May run up to P iterations ahead of 4.
      2. offer(n): gather, announce to every trainer    4. write_back(n): hand the rows over, announce.

No further acknowledgement is needed: 4 for n-P-1 comes after 3 for n-P-1, so 1 proves that the memory of fetch stage
n-P-1 may be used again by 2; and 3 for n comes after 1 for n-P-1, so the memory of write-back stage n-P-1 may be used
again by 4 for n. Hence rings of P+1 stages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class ServedRows(Protocol):
    """The rows of one server, as a transport needs them. Rows are numbered within the server: local rows."""

    @property
    def row_width(self) -> int:
        """float32 columns of a row."""

    def materialise(self, local_rows: Int64Array) -> None:
        """Give rows that were never used their initial values; local_rows is int64 (n,) without repetitions."""

    def gather(self, local_rows: Int64Array, out: Float32Array, between: Callable[[], object] = ...) -> None:
        """Copy rows into out.

        Args:
            local_rows: int64, shape (n,), without repetitions.
            out: float32, shape (n, row_width).
            between: Called between parts of the copy.
        """

    def scatter(self, local_rows: Int64Array, rows: Float32Array, between: Callable[[], object] = ...) -> None:
        """Overwrite rows, int64 (n,) without repetitions, with float32 (n, row_width); between as for `gather`."""

    def mark_touched(self, local_rows: Int64Array) -> None:
        """Note that the transport itself has overwritten rows; local_rows is int64 (n,)."""


class ServerEnd(Protocol):
    """The side of an embedding server. Its owner calls absorb(n-P-1), then offer(n), for n = 0, 1, 2, ..."""

    def offer(self, plan: ServerPlan) -> None:
        """Make the rows of iteration n ready for every trainer. Communication: collective if a ring grows."""

    def absorb(self, plan: ServerPlan) -> None:
        """Wait for every trainer's rows of an iteration and store them. Communication: waits for messages."""

    def close(self) -> None:
        """Release windows. Communication: collective."""


class TrainerEnd(Protocol):
    """The side of a trainer. One thread may call `fetch` while another one calls `write_back`."""

    def fetch(self, plan: TrainerPlan, out: Float32Array) -> None:
        """Take the fetched rows of an iteration, in `fetch_slots` order, into out, float32 (n, row_width).

        Communication: waits for every server's announcement; one-sided, complete on return.
        """

    def write_back(self, plan: TrainerPlan, rows: Float32Array) -> None:
        """Hand over the evicted rows of an iteration, float32 (n, row_width) in `write_back_slots` order.

        Communication: one-sided, complete on return; announces to every server, even without rows.
        """

    def close(self) -> None:
        """Release windows. Communication: collective."""
