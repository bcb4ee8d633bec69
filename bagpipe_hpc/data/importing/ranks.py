"""The processes of an import. This module does not know MPI: the command passes in an implementation with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue


class Ranks(Protocol):
    """Collective calls: every rank makes the same ones in the same order. If a rank fails, it must end the others."""

    rank: int
    size: int

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the one-dimensional arrays of all ranks, which have one dtype, in order of rank."""

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Send piece r to rank r; return the pieces for this rank, in order of rank. One-dimensional, of one dtype."""

    def await_end(self) -> None:
        """Wait until another rank's failure ends this process; return if that does not happen."""


class Alone:
    """A single process."""

    rank = 0
    size = 1

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """See `Ranks.allgather`."""
        return [values]

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Ranks.alltoall`."""
        return list(pieces)

    def await_end(self) -> None:
        """See `Ranks.await_end`."""


def share_of(number: int, ranks: Ranks) -> tuple[int, int]:
    """Return this rank's part, [start, stop), of `number` things in a row. The parts' sizes differ by at most one."""
    return number * ranks.rank // ranks.size, number * (ranks.rank + 1) // ranks.size


def allgather_json(ranks: Ranks, value: JsonValue) -> list[Any]:
    """Return the values of all ranks, in order of rank. Communication: collective."""
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(other.tobytes()) for other in ranks.allgather(message)]


def from_first(ranks: Ranks, make: Callable[[], JsonValue]) -> Any:
    """Return what rank 0 makes, on all ranks. Only rank 0 calls `make`. Communication: collective."""
    return allgather_json(ranks, make() if ranks.rank == 0 else None)[0]
