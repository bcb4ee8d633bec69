"""The totals of servers and trainers at the end of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.protocol.record import decode_record, encode_record

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ServerTotals:
    """The counts of one server.

    Args:
        rows_touched: The number of rows of its shard that were updated at least once.
        energy: What its energy meter has read; see `runtime/energy.py`.
    """

    rows_touched: int
    energy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerTotals:
    """The counts and times of one trainer. Only training iterations count, unless a field says otherwise.

    Args:
        seconds: Time of all training iterations.
        evaluation_seconds: Time of all evaluations.
        iteration_seconds: Time of each iteration, or means of several in a row, float64, shape (n,).
        working_seconds: By name of thread: CPU time of each iteration without waiting, float64, shape (n,).
        seconds_by_cause: Time by cause, of what an iteration waits for.
        delayed_seconds_by_cause: Time by cause, of what runs while an iteration computes.
        iterations: Training iterations.
        samples: Samples of this trainer's shares.
        rows_fetched: Rows that came from servers.
        rows_written_back: Rows that went to servers, also those that left the cache during evaluations.
        rows_pushed: Rows that went to other trainers.
        bytes_exchanged: Bytes of rows and gradients that went to other trainers.
        bytes_fetched: Bytes that came from servers.
        bytes_written_back: Bytes that went to servers.
        bytes_dense: Bytes of dense gradients that were summed over the trainers.
        device: The device that the trainer computes on.
        threads: The number of threads of torch's CPU kernels.
        energy: What its energy meter has read; see `runtime/energy.py`.
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
    energy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankTotals:
    """The totals of all servers and trainers of a job.

    Args:
        servers: By server index.
        trainers: By trainer rank.
    """

    servers: tuple[ServerTotals, ...]
    trainers: tuple[TrainerTotals, ...]

    @property
    def energy(self) -> list[Mapping[str, Any]]:
        """What the energy meters of all servers and trainers have read."""
        return [*(each.energy for each in self.servers), *(each.energy for each in self.trainers)]


def encode_totals(totals: ServerTotals | TrainerTotals) -> bytes:
    """Return the totals of one rank as bytes."""
    return encode_record(vars(totals))


def decode_totals(server_contents: list[bytes], trainer_contents: list[bytes]) -> RankTotals:
    """Return the totals of all ranks.

    Args:
        server_contents: The encoded totals of each server.
        trainer_contents: The encoded totals of each trainer.
    Raises:
        ProtocolError: totals are damaged, or from another version of bagpipe_hpc.
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
