"""Stages in threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from bagpipe_hpc import pipeline as pipeline_module
from bagpipe_hpc.pipeline import Cores, Pipeline

SECONDS = 30
pytestmark = pytest.mark.timeout(SECONDS)


@pytest.mark.parametrize("num_cores", [1, 2, 5])
def test_items_come_in_order_through_all_stages(num_cores: int) -> None:
    pipeline = Pipeline(Cores(num_cores), depth=2)
    doubled = pipeline.step("double", lambda n: [n, n], pipeline.source("count", iter(range(50))))
    odd = pipeline.step("odd", lambda n: [n] if n % 2 else [], doubled)
    assert list(odd) == [n for n in range(50) if n % 2 for _ in range(2)]


def test_the_time_of_a_stage_is_that_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(pipeline_module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    pipeline = Pipeline(Cores(1), depth=2)  # one stage works at a time, so each piece of work takes one tick
    doubled = pipeline.step("double", lambda n: [n, n], pipeline.source("count", iter(range(50))))
    assert len(list(pipeline.step("odd", lambda n: [n] if n % 2 else [], doubled))) == 50
    assert pipeline.seconds == {"count": 51.0, "double": 50.0, "odd": 100.0}  # the source also finds its end


def test_what_comes_at_the_end() -> None:
    pipeline = Pipeline(Cores(1), depth=2)
    items = pipeline.step("sum", lambda n: [n], pipeline.source("count", iter(range(3))), at_end=lambda: [7, 8])
    assert list(items) == [0, 1, 2, 7, 8]


def test_a_stage_is_ahead_by_so_many_items_only() -> None:
    depth, num_items = 3, 200
    made = taken = most_ahead = 0
    is_made = threading.Semaphore(0)

    def counting() -> Iterator[int]:
        nonlocal made, most_ahead
        for made in range(1, num_items + 1):
            most_ahead = max(most_ahead, made - taken)
            is_made.release()
            yield made

    items = Pipeline(Cores(1), depth).source("count", counting())
    for taken in range(1, num_items + 1):
        assert next(items) == taken
        while made < min(num_items, taken + depth + 1):  # until the source is as far ahead as it may be
            assert is_made.acquire(timeout=SECONDS)
    assert most_ahead == depth + 1  # queued, and one that waits for the queue


@pytest.mark.parametrize("where", ["source", "stage"])
def test_errors_arrive_after_what_came_before(where: str) -> None:
    def failing() -> Iterator[int]:
        yield 1
        if where == "source":
            raise ValueError("broken")
        yield 0

    pipeline = Pipeline(Cores(2), depth=2)
    items = pipeline.step("last", lambda x: [x], pipeline.step("divide", divide, pipeline.source("s", failing())))
    assert next(items) == 12
    with pytest.raises((ValueError, ZeroDivisionError)):
        next(items)


def divide(n: int) -> list[int]:
    return [12 // n]


class WatchedCores(Cores):
    """Knows which threads hold a core."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.holders: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        with super().one():
            self.holders.add(threading.get_ident())
            assert len(self.holders) <= self.count
            yield
            self.holders.remove(threading.get_ident())


def test_whatever_works_holds_a_core() -> None:
    cores = WatchedCores(2)

    def work(n: int) -> list[int]:
        assert threading.get_ident() in cores.holders
        return [n]

    pipeline = Pipeline(cores, depth=4)
    items: Iterator[int] = pipeline.source("count", (work(n)[0] for n in range(30)))
    for index in range(4):
        items = pipeline.step(f"stage {index}", work, items)
    assert list(items) == list(range(30))
    assert cores.holders == set()


def test_a_stage_splits_its_work_over_the_cores_that_are_free() -> None:
    cores = Cores(5)
    num_pieces = []

    def cuts(pieces: int) -> list[int]:
        num_pieces.append(pieces)
        return list(range(pieces + 1))

    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(cores.one())
            cores.split(lambda begin, end: None, cuts)
    assert num_pieces == [4, 4, 3, 2, 1]  # by cores that are held; one core is left to the others


@pytest.mark.parametrize("num_cores", [1, 2, 4])
def test_pieces_cover_the_whole(num_cores: int) -> None:
    cores, lock = Cores(num_cores), threading.Lock()
    done: list[int] = []

    def work(begin: int, end: int) -> None:
        with lock:
            done.extend(range(begin, end))

    for _ in range(20):
        with cores.one():
            cores.split(work, lambda pieces: [10 * piece // pieces for piece in range(pieces + 1)])
        assert sorted(done) == list(range(10))
        done.clear()


def test_a_piece_that_fails_gives_its_core_back() -> None:
    cores = Cores(3)

    def fail(begin: int, end: int) -> None:
        raise ValueError(f"{begin} to {end}")

    for _ in range(5):
        with cores.one(), pytest.raises(ValueError, match="0 to 1"):
            cores.split(fail, lambda pieces: list(range(pieces + 1)))
