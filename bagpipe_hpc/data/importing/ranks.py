"""The processes that share an import. MPI stays outside: the command gives an implementation over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue


class Ranks(Protocol):
    """Collective calls: every rank makes the same ones in the same order. A rank that fails must end the others."""

    rank: int
    size: int

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """One-dimensional arrays of all ranks, of one dtype, by rank."""

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Piece r goes to rank r; returns the pieces meant for this rank, by rank. One-dimensional, of one dtype."""

    def await_end(self) -> None:
        """Wait for the end that another rank's failure brings; returns if none comes."""


class Alone:
    """One process."""

    rank = 0
    size = 1

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """See Ranks."""
        return [values]

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See Ranks."""
        return list(pieces)

    def await_end(self) -> None:
        """See Ranks."""


def share_of(number: int, ranks: Ranks) -> tuple[int, int]:
    """This rank's share, [start, stop), of a number of things in a row; shares differ by one at most."""
    return number * ranks.rank // ranks.size, number * (ranks.rank + 1) // ranks.size


def allgather_json(ranks: Ranks, value: JsonValue) -> list[Any]:
    """Values of all ranks, by rank. Communication: collective."""
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(other.tobytes()) for other in ranks.allgather(message)]


def from_first(ranks: Ranks, make: Callable[[], JsonValue]) -> Any:
    """What rank 0 makes, on all ranks; only rank 0 calls, so a mistake is told once. Communication: collective."""
    return allgather_json(ranks, make() if ranks.rank == 0 else None)[0]
