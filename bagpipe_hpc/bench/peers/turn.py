"""One run of one system, as one rank sees it and as all ranks see it together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bagpipe_hpc.bench.peers.network import bytes_between


@dataclass(frozen=True)
class TrainerTurn:
    """What a trainer has measured.

    Args:
        seconds: The time of the timed iterations.
        begin: When they began, in seconds since the epoch.
        end: When they ended.
        losses: One per iteration, this trainer's part of the mean loss over the global batch.
        peak_bytes: The largest memory of the process that trains.
    """

    seconds: float
    begin: float
    end: float
    losses: tuple[float, ...]
    peak_bytes: int


@dataclass(frozen=True)
class RankTurn:
    """What a rank has after a run.

    Args:
        trainer: What it has measured as a trainer; None: it does not train, or training failed.
        error: Why a peer failed; empty: it did not.
        peak_bytes: The largest memory of the rank as oracle or embedding server; 0: it is none in this run.
        sent: At the first rank of each host: samples of (time, bytes that the host has sent).
    """

    trainer: TrainerTurn | None = None
    error: str = ""
    peak_bytes: int = 0
    sent: tuple[tuple[float, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields, for a message."""
        return asdict(self)

    @staticmethod
    def of_json(fields: dict[str, Any]) -> RankTurn:
        """Return the value with these fields."""
        trainer = fields["trainer"]
        if trainer is not None:
            trainer = TrainerTurn(**{**trainer, "losses": tuple(trainer["losses"])})
        sent = tuple((moment, size) for moment, size in fields["sent"])
        return RankTurn(**{**fields, "trainer": trainer, "sent": sent})


@dataclass(frozen=True)
class Turn:
    """A run of one system, over all ranks.

    Args:
        samples_per_second: By the trainer that took longest.
        loss: Over the global batch, in the last timed iteration.
        bytes_sent: Bytes that all hosts sent, per iteration and trainer; None: there is one host.
        trainer_bytes: The memory of the largest trainer process.
        other_bytes: The memory of the oracle and all servers together; 0: the system has none.
    """

    samples_per_second: float
    loss: float
    bytes_sent: float | None
    trainer_bytes: int
    other_bytes: int


def joint_turn(ranks: Sequence[RankTurn], num_samples: int, iterations: int, num_trainers: int) -> Turn:
    """Return what all ranks have measured together.

    Args:
        ranks: Of every rank, at least one with a trainer.
        num_samples: Samples of the timed iterations, over all trainers.
        iterations: The number of timed iterations.
        num_trainers: The number of trainers of the case.
    """
    trainers = [rank.trainer for rank in ranks if rank.trainer is not None]
    begin, end = min(each.begin for each in trainers), max(each.end for each in trainers)
    hosts = [list(rank.sent) for rank in ranks if rank.sent]
    sent = sum(bytes_between(host, begin, end) for host in hosts) / iterations / num_trainers
    return Turn(
        samples_per_second=num_samples / max(each.seconds for each in trainers),
        loss=sum(each.losses[-1] for each in trainers),
        bytes_sent=sent if len(hosts) > 1 else None,
        trainer_bytes=max(each.peak_bytes for each in trainers),
        other_bytes=sum(rank.peak_bytes for rank in ranks),
    )
