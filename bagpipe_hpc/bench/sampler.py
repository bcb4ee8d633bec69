"""Samples of something that changes while a block runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Self, TypeVar

Value = TypeVar("Value")


class Sampler(Generic[Value]):
    """Reads a value again and again, in a thread, from `with` to the end of its block.

    `samples` has the values, each with its time in seconds since the epoch. The last one is read after the block.

    Args:
        name: The name of the thread.
        read: Returns the value.
        seconds: The time between two samples.
    """

    def __init__(self, name: str, read: Callable[[], Value], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self.samples: list[tuple[float, Value]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.is_set()  # before the last sample, so that one is after the end
            self.samples.append((time.time(), self._read()))
            self._is_over.wait(self._seconds)
