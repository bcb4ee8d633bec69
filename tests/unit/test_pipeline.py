"""Stages in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bagpipe_hpc.pipeline import Cores, Pipeline

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("num_cores", [1, 2, 5])
def test_items_come_in_order_through_all_stages(num_cores: int) -> None:
    pipeline = Pipeline(Cores(num_cores), depth=2)
    doubled = pipeline.stage("double", lambda n: [n, n], pipeline.source("count", iter(range(50))))
    odd = pipeline.stage("odd", lambda n: [n] if n % 2 else [], doubled)
    assert list(odd) == [n for n in range(50) if n % 2 for _ in range(2)]
    assert pipeline.seconds.keys() == {"count", "double", "odd"}
    assert all(seconds >= 0 for seconds in pipeline.seconds.values())


def test_what_comes_at_the_end() -> None:
    pipeline = Pipeline(Cores(1), depth=2)
    items = pipeline.stage("sum", lambda n: [n], pipeline.source("count", iter(range(3))), at_end=lambda: [7, 8])
    assert list(items) == [0, 1, 2, 7, 8]


def test_a_stage_is_ahead_by_so_many_items_only() -> None:
    made = 0

    def counting() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    items = Pipeline(Cores(1), depth=3).source("count", counting())
    assert next(items) == 1
    for _ in range(100):
        time.sleep(0.001)
        assert made <= 1 + 3 + 1  # taken, queued, waiting for the queue


@pytest.mark.parametrize("where", ["source", "stage"])
def test_errors_arrive_after_what_came_before(where: str) -> None:
    def failing() -> Iterator[int]:
        yield 1
        if where == "source":
            raise ValueError("broken")
        yield 0

    pipeline = Pipeline(Cores(2), depth=2)
    items = pipeline.stage("last", lambda x: [x], pipeline.stage("divide", divide, pipeline.source("s", failing())))
    assert next(items) == 12
    with pytest.raises((ValueError, ZeroDivisionError)):
        next(items)


def divide(n: int) -> list[int]:
    return [12 // n]


def test_no_more_stages_work_than_there_are_cores() -> None:
    working, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> list[int]:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.002)
        with lock:
            working -= 1
        return [n]

    pipeline = Pipeline(Cores(2), depth=4)
    items: Iterator[int] = pipeline.source("count", iter(range(30)))
    for index in range(4):
        items = pipeline.stage(f"stage {index}", work, items)
    assert list(items) == list(range(30))
    assert most <= 2


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
