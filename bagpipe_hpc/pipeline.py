"""A pipeline of steps. Each step is a thread, and is ahead of the next one by a bounded number of items.

`Cores` bounds how many steps work at the same time. A step holds a core while it works, and none while it waits.
Compiled loops and array operations release Python's lock, so steps run side by side.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any, TypeVar

from bagpipe_hpc import trace
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.threaded_job import current_job, put, take
from bagpipe_hpc.waiting import waiting_for

A = TypeVar("A")
B = TypeVar("B")

SECONDS_PER_CALL = 0.002  # between two calls of `meanwhile`


class Cores:
    """Cores that threads share. A thread holds at least one of them while it works.

    Args:
        count: Number of cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.Semaphore(count)
        self._pool = ThreadPoolExecutor(count, "core")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a core, and hold it in the context."""
        with self._free:
            yield

    def split(self, work: Callable[[int, int], None], cuts: Callable[[int], list[int]]) -> None:
        """Split work among as many threads as there are free cores. The caller holds a core.

        One core is left free for other steps: the caller would have to wait for them in the end.

        Args:
            work: Does the part of the work from `begin` to `end`: work(begin, end).
            cuts: Given a number of parts, returns where they begin, and where the last one ends.
        """
        extra = 0
        while extra < self.count - 2 and self._free.acquire(blocking=False):
            extra += 1
        try:
            pieces = list(itertools.pairwise(cuts(1 + extra)))
            others = [self._pool.submit(work, begin, end) for begin, end in pieces[1:]]
            work(*pieces[0])
            for other in others:
                other.result()
        finally:
            if extra:
                self._free.release(extra)


class Pipeline:
    """Steps that share cores. It measures how long each of them works.

    Args:
        cores: The cores of all steps.
        depth: Number of items that a step may be ahead of the next one.
        first_number: Number of the first item of each step, for the trace.
    """

    def __init__(self, cores: Cores, depth: int, first_number: int = 0) -> None:
        self._first_number = first_number
        self._cores = cores
        self._depth = depth
        self.seconds: defaultdict[str, float] = defaultdict(float)  # that each step has worked

    def source(self, name: str, items: Iterator[A]) -> Iterator[A]:
        """Let a thread make items ahead of time.

        Args:
            name: Of the step.
            items: What the thread iterates over.
        Returns:
            The same items. Iterating over them raises the exception of the thread, if there is one.
        """

        def make() -> Iterator[A]:
            end = object()
            for number in itertools.count(self._first_number):
                with self._working(name, number) as span:
                    item = next(items, end)
                    if item is end:
                        span.iteration = None
                if item is end:
                    return
                yield item  # type: ignore[misc]

        return self._ahead(name, make())

    def step(
        self,
        name: str,
        work: Callable[[A], Iterable[B]],
        items: Iterable[A],
        at_end: Callable[[], Iterable[B]] = tuple,
        meanwhile: Callable[[], object] | None = None,
    ) -> Iterator[B]:
        """Let a thread work on items ahead of time.

        Args:
            name: Of the step.
            work: Makes any number of results from an item.
            items: Of the step before.
            at_end: Makes results after the last item.
            meanwhile: Called every 2 milliseconds while the caller waits for a result.
        Returns:
            The results, in order. Iterating over them raises the exception of the thread, if there is one.
        """

        def make() -> Iterator[B]:
            for number, item in enumerate(items, self._first_number):
                with self._working(name, number):
                    results = list(work(item))
                yield from results
            yield from at_end()

        return self._ahead(name, make(), meanwhile)

    @contextmanager
    def _working(self, name: str, number: int) -> Iterator[trace.OpenSpan | trace.NoSpan]:
        with self._cores.one():
            start = time.perf_counter()
            with trace.span(name, number) as span:
                yield span
            self.seconds[name] += time.perf_counter() - start

    def _ahead(self, name: str, items: Iterator[B], meanwhile: Callable[[], object] | None = None) -> Iterator[B]:
        queue: Queue[tuple[str, Any]] = Queue(maxsize=self._depth)

        def run() -> None:
            try:
                for item in items:
                    put(queue, ("item", item))
                put(queue, ("end", None))
            except BaseException as error:
                put(queue, ("error", error))

        start_thread(name, run)
        awaited = f"its thread {name!r}"
        while True:
            with waiting_for(awaited):
                kind, content = take(queue) if meanwhile is None else _get(queue, meanwhile)
            if kind == "error":
                raise content
            if kind == "end":
                return
            yield content


def _get(queue: Queue[A], meanwhile: Callable[[], object]) -> A:
    job = current_job()
    while True:
        try:
            return queue.get(timeout=SECONDS_PER_CALL)
        except Empty:
            meanwhile()
            if job is not None:
                job.check()
