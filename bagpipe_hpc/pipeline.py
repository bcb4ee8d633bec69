"""Steps of work, each in a thread, each ahead of the next by a bounded number of items.

A number of `Cores` bounds how many steps work at the same time; a step that waits holds none. Compiled loops and
array operations let go of the interpreter, so steps do run side by side.
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

SECONDS_PER_LOOK = 0.002


class Cores:
    """Cores that threads share: whoever works holds at least one.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.Semaphore(count)
        self._pool = ThreadPoolExecutor(count, "core")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a core; waits for one."""
        with self._free:
            yield

    def split(self, work: Callable[[int, int], None], cuts: Callable[[int], list[int]]) -> None:
        """Do `work(begin, end)` on all pieces, in as many threads as there are cores free; the caller holds one.

        One core is left to the others, who would only wait for it and then keep the caller waiting.

        Args:
            cuts: Given a number of pieces, their ends, from 0 on.
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
    """Steps that share cores; counts the time each works.

    Args:
        cores: For all steps together.
        depth: Items that a step may be ahead of the next.
        first_number: Of each step's items, for the trace.
    """

    def __init__(self, cores: Cores, depth: int, first_number: int = 0) -> None:
        self._first_number = first_number
        self._cores = cores
        self._depth = depth
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by step

    def source(self, name: str, items: Iterator[A]) -> Iterator[A]:
        """The same items, made by a thread; its exception is raised here."""

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
        """What `work` makes of each item, in order, then what `at_end` makes; a thread's exception is raised here.

        Args:
            meanwhile: Called now and then while the caller waits for an item.
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
            return queue.get(timeout=SECONDS_PER_LOOK)
        except Empty:
            meanwhile()
            if job is not None:
                job.check()
