"""A communicator in memory: its ranks are threads of one process, and MPI is never started.

It has those methods of mpi4py's Intracomm that a job uses, with the same names. One contract test runs against both
(tests/communicator.py). Every collective waits for all ranks, which MPI's may do too. Collectives do not copy objects,
because no rank changes what it has given. Messages are copied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from bagpipe_hpc.threaded_job import wait_on


@dataclass(eq=False)
class _Message:
    source: int
    tag: int
    content: bytearray
    is_taken: bool = False


@dataclass
class _Meeting:
    """One collective: what each rank gives, and how many ranks have seen the result."""

    brought: dict[int, Any] = field(default_factory=dict)
    result: Any = None
    num_left: int = 0


class _Shared:
    """What all ranks of a communicator share.

    Args:
        size: Number of ranks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.messages: list[deque[_Message]] = [deque() for _ in range(size)]  # by destination
        self.meetings: dict[int, _Meeting] = {}

    def meet(self, number: int, rank: int, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Give a value to a collective, and return its result.

        Args:
            number: Of the collective; ranks count their collectives.
            combine: Makes the result of all values, by rank.
        """
        with self.changed:
            meeting = self.meetings.setdefault(number, _Meeting())
            meeting.brought[rank] = value
            if len(meeting.brought) == self.size:
                meeting.result = combine([meeting.brought[each] for each in range(self.size)])
                self.changed.notify_all()
            while len(meeting.brought) < self.size:
                wait_on(self.changed)
            meeting.num_left += 1
            if meeting.num_left == self.size:
                del self.meetings[number]
            return meeting.result


class MemoryComm:
    """One rank's end of a communicator. Several threads may send and receive messages, one may call collectives."""

    def __init__(self, shared: _Shared, rank: int) -> None:
        self._shared = shared
        self.rank, self.size = rank, shared.size
        self._num_met = 0

    @classmethod
    def world(cls, size: int) -> list[MemoryComm]:
        """Return the ends of a new communicator of so many ranks, by rank."""
        shared = _Shared(size)
        return [cls(shared, rank) for rank in range(size)]

    # Collectives

    def _meet(self, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        number, self._num_met = self._num_met, self._num_met + 1
        return self._shared.meet(number, self.rank, value, combine)

    def allgather(self, value: Any) -> list[Any]:
        """As in MPI."""
        return list(self._meet(value, list))

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """As in MPI."""
        values = self.allgather(value)
        return values if self.rank == root else None

    def bcast(self, value: Any, root: int = 0) -> Any:
        """As in MPI."""
        return self._meet(value, lambda values: values[root])

    def Barrier(self) -> None:  # noqa: N802
        """As in MPI."""
        self._meet(None, list)

    def Dup(self) -> MemoryComm:  # noqa: N802
        """As in MPI."""
        return MemoryComm(self._meet(None, lambda values: _Shared(len(values))), self.rank)

    def Split(self, color: int, key: int = 0) -> MemoryComm | MPI.Comm:  # noqa: N802
        """As in MPI: return MPI.COMM_NULL if the color is MPI.UNDEFINED."""
        parts: dict[int, MemoryComm] = self._meet((color, key), _split)
        return parts.get(self.rank, MPI.COMM_NULL)

    def Split_type(self, split_type: int, key: int = 0) -> MemoryComm | MPI.Comm:  # noqa: N802
        """As in MPI: all ranks share one memory."""
        return self.Split(0, key)

    def Free(self) -> None:  # noqa: N802
        """As in MPI, but no rank waits for another."""
        del self._shared

    # Messages

    def Send(self, message: Any, dest: int, tag: int = 0) -> None:  # noqa: N802
        """As in MPI, buffered."""
        self._send(message, dest, tag)

    def Isend(self, message: Any, dest: int, tag: int = 0) -> MemoryRequest:  # noqa: N802
        """As in MPI, buffered."""
        self._send(message, dest, tag)
        return MemoryRequest(lambda: True)

    def Issend(self, message: Any, dest: int, tag: int = 0) -> MemoryRequest:  # noqa: N802
        """As in MPI: complete when the message has been taken."""
        sent = self._send(message, dest, tag)
        return MemoryRequest(lambda: sent.is_taken)

    def Send_init(self, message: Any, dest: int, tag: int = 0) -> MemoryPrequest:  # noqa: N802
        """As in MPI, buffered."""
        return MemoryPrequest(lambda: self._send(message, dest, tag), lambda: True)

    def Recv_init(self, message: Any, source: int, tag: int) -> MemoryPrequest:  # noqa: N802
        """As in MPI; at most one receive of the same source and tag may be active."""
        buffer = message[0] if isinstance(message, list) else message

        def receive() -> bool:
            taken = self.take(source, tag)
            if taken is not None:
                memoryview(buffer).cast("B")[:] = taken[1]
            return taken is not None

        return MemoryPrequest(lambda: None, receive)

    def Iprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> bool:  # noqa: N802
        """As in MPI."""
        return self._find(source, tag) is not None

    def take(self, source: int, tag: int) -> tuple[int, bytearray] | None:
        """Return the source and the content of the first message that matches, or None. In MPI: Improbe and Mrecv."""
        with self._shared.changed:
            message = self._find(source, tag)
            if message is None:
                return None
            self._shared.messages[self.rank].remove(message)
            message.is_taken = True
            return message.source, message.content

    def _send(self, message: Any, dest: int, tag: int) -> _Message:
        buffer = message[0] if isinstance(message, list) else message
        sent = _Message(self.rank, tag, bytearray(memoryview(buffer).cast("B")))
        with self._shared.changed:
            self._shared.messages[dest].append(sent)
        return sent

    def _find(self, source: int, tag: int) -> _Message | None:
        with self._shared.changed:
            for message in self._shared.messages[self.rank]:
                if source in (message.source, MPI.ANY_SOURCE) and tag in (message.tag, MPI.ANY_TAG):
                    return message
        return None


class MemoryRequest:
    """As in MPI."""

    def __init__(self, is_complete: Callable[[], bool]) -> None:
        self._is_complete = is_complete

    def Test(self) -> bool:  # noqa: N802
        """Return whether the operation is complete."""
        return self._is_complete()


class MemoryPrequest:
    """As in MPI.

    Args:
        start: Starts the operation.
        complete: Completes it if that is possible now, and returns whether it has.
    """

    def __init__(self, start: Callable[[], object], complete: Callable[[], bool]) -> None:
        self._start, self._complete = start, complete
        self._is_active = False

    def Start(self) -> None:  # noqa: N802
        """As in MPI."""
        self._is_active = True
        self._start()

    def Test(self) -> bool:  # noqa: N802
        """As in MPI."""
        if self._is_active and self._complete():
            self._is_active = False
        return not self._is_active

    def Free(self) -> None:  # noqa: N802
        """As in MPI."""


def _split(chosen: list[tuple[int, int]]) -> dict[int, MemoryComm]:
    """Return the ends of all parts, by the rank in the whole communicator.

    Args:
        chosen: Color and key of each rank.
    """
    parts: dict[int, MemoryComm] = {}
    for color in {color for color, _ in chosen} - {MPI.UNDEFINED}:
        members = sorted((key, rank) for rank, (its_color, key) in enumerate(chosen) if its_color == color)
        for (_, rank), end in zip(members, MemoryComm.world(len(members)), strict=True):
            parts[rank] = end
    return parts
