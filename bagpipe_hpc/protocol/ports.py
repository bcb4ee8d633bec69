"""The interfaces that the protocol needs. `transport/` implements them, over MPI and in memory.

Everything that crosses a port is bytes: nothing is pickled.
"""

from __future__ import annotations

from typing import Protocol


class World(Protocol):
    """All ranks, for the handshakes at the start and the end of a job. Rank 0 is the oracle.

    Before the roles are known, rank 0 is that of the launcher.
    """

    @property
    def rank(self) -> int:
        """The world rank of this rank."""

    def gather(self, content: bytes) -> list[bytes] | None:
        """Return the contents of all ranks at the oracle, by world rank; None elsewhere. Communication: collective."""

    def broadcast(self, content: bytes | None) -> bytes:
        """Return the content of the oracle, at all ranks. The other ranks pass None. Communication: collective."""

    def send(self, content: bytes, rank: int) -> None:
        """Send a message to one rank. Communication: may wait until that rank receives it."""

    def receive(self, rank: int) -> bytes:
        """Return the next message of one rank. Communication: waits for that rank."""


class Mailbox(Protocol):
    """Carries messages from every rank, and from every thread of a rank, to the oracle."""

    def send(self, content: bytes) -> None:
        """Start sending one message to the oracle and return. Messages of one thread arrive in order."""

    def take(self) -> bytes | None:
        """Return a message that has arrived, or None. Only the oracle calls this, and it never waits."""

    def finish(self) -> None:
        """Wait until all messages of this rank have left it."""


class PlanOutlet(Protocol):
    """Carries plans from the oracle to all other ranks, a bounded number of them ahead of each receiver."""

    @property
    def bytes_sent(self) -> int:
        """The number of bytes of all messages sent so far."""

    def send(self, world_rank: int, message: bytes) -> None:
        """Start sending one message to one rank and return."""

    def has_room(self) -> bool:
        """Return whether every receiver may be sent another plan. Drives progress and never waits."""

    def is_idle(self) -> bool:
        """Return whether every message has been received. Drives progress and never waits."""

    def slow_receivers(self) -> list[int]:
        """Return the world ranks that may not be sent another plan yet. Any thread may call this."""
