"""What servers and trainers have counted by the end of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.protocol.record import decode_record, encode_record

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ServerTotals:
    """Counts of one server.

    Args:
        rows_touched: Rows of its shard that were updated.
    """

    rows_touched: int


@dataclass(frozen=True)
class TrainerTotals:
    """Counts and times of one trainer. Only training iterations count, unless a field says otherwise.

    Args:
        seconds: Time of all training iterations.
        evaluation_seconds: Time of all evaluations.
        iteration_seconds: float64, shape (n,): time of each iteration, or means of several in a row.
        working_seconds: float64, shape (n,), by name of thread: CPU time of each iteration without waiting.
        seconds_by_cause: Time by cause, of what an iteration waits for.
        delayed_seconds_by_cause: Time by cause, of what runs while an iteration computes.
        iterations: Training iterations.
        samples: Samples of this trainer's shares.
        rows_fetched: Rows that came from servers.
        rows_written_back: Rows that went to servers. Those that leave the cache during evaluations count, too.
        rows_pushed: Rows that went to other trainers.
        bytes_exchanged: Bytes of rows and gradients that went to other trainers.
        bytes_fetched: Bytes that came from servers.
        bytes_written_back: Bytes that went to servers.
        bytes_dense: Bytes of dense gradients that were summed over the trainers.
        device: Where the trainer computes.
        threads: CPU threads of a torch operation.
    """

    seconds: float
    evaluation_seconds: float
    iteration_seconds: Float64Array
    working_seconds: Mapping[str, Float64Array]
    seconds_by_cause: Mapping[str, float]
    delayed_seconds_by_cause: Mapping[str, float]
    iterations: int
    samples: int
    rows_fetched: int
    rows_written_back: int
    rows_pushed: int
    bytes_exchanged: int
    bytes_fetched: int
    bytes_written_back: int
    bytes_dense: int
    device: str
    threads: int


@dataclass(frozen=True)
class RankTotals:
    """Totals of all servers and trainers of a job, each by its index."""

    servers: tuple[ServerTotals, ...]
    trainers: tuple[TrainerTotals, ...]


def encode_totals(totals: ServerTotals | TrainerTotals) -> bytes:
    """Return the totals of one rank as bytes."""
    return encode_record(vars(totals))


def decode_totals(server_contents: list[bytes], trainer_contents: list[bytes]) -> RankTotals:
    """Return the totals of all ranks.

    Raises:
        ProtocolError: they are none of this version.
    """
    return RankTotals(
        tuple(_decode(ServerTotals, content) for content in server_contents),
        tuple(_decode(TrainerTotals, content) for content in trainer_contents),
    )


def _decode(kind: Any, content: bytes) -> Any:
    try:
        return kind(**decode_record(content))
    except TypeError as error:
        raise ProtocolError(f"totals of a rank are from another version of bagpipe_hpc: {error}") from None
