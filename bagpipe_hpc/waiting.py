"""What each thread of this process waits for, and whether it makes progress: notes for the watchdog.

A note costs about a microsecond, so every wait for another rank or thread has one, always.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

_rank_name: ContextVar[str] = ContextVar("rank name", default="")
_of_thread = threading.local()
_stacks: list[_Stack] = []
_num_steps = 0
_num_starts = 0
_steps_at_start = 0


@dataclass(frozen=True)
class Wait:
    """A wait of a thread."""

    rank_name: str
    thread_name: str
    what: str
    seconds: float


class _Stack:
    """The open waits of one thread. Only that thread changes them."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.rank_name = _rank_name.get()
        self.waits: list[waiting_for] = []


class waiting_for:  # noqa: N801
    """Note a wait: `with waiting_for("server 0: rows of iteration 7"): ...`.

    Args:
        what: What the thread waits for, or a function that returns this text. Another thread may call it.
    """

    __slots__ = ("_start", "_waits", "_what")

    def __init__(self, what: str | Callable[[], str]) -> None:
        self._what = what

    def __enter__(self) -> None:
        try:
            stack: _Stack = _of_thread.stack
        except AttributeError:
            stack = _of_thread.stack = _Stack()
            _stacks[:] = [each for each in _stacks if each.thread.is_alive()]
            _stacks.append(stack)
        self._waits = stack.waits
        self._start = time.monotonic()
        self._waits.append(self)

    def __exit__(self, *exception: object) -> None:
        self._waits.pop()

    def told(self, stack: _Stack) -> Wait:
        """Return the wait for other threads to read."""
        what = self._what if isinstance(self._what, str) else self._what()
        return Wait(stack.rank_name, stack.thread.name, what, time.monotonic() - self._start)


def name_rank(name: str) -> None:
    """Set the name of the rank of the calling thread and of those that it starts."""
    _rank_name.set(name)
    _of_thread.__dict__.pop("stack", None)


def open_waits() -> Iterator[Wait]:
    """Yield the innermost wait of every thread that waits."""
    for stack in list(_stacks):
        waits = stack.waits[-1:]
        if waits and stack.thread.is_alive():
            yield waits[0].told(stack)


def note_step() -> None:
    """Note progress: an iteration, a piece of a file, or a message that was received."""
    global _num_steps
    _num_steps += 1


def num_steps() -> int:
    """Return the number of steps so far. Two threads that step at the same time may count as one."""
    return _num_steps


def note_start() -> None:
    """Note that all ranks are ready, so that the job starts to train."""
    global _num_starts, _steps_at_start
    _num_starts, _steps_at_start = _num_starts + 1, _num_steps


def num_starts() -> int:
    """Return how often `note_start` was called in this process."""
    return _num_starts


def steps_since_start() -> int:
    """Return the number of steps since the last `note_start`."""
    return _num_steps - _steps_at_start
