"""Which share of a core each thread computes."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from bagpipe_hpc.bench.thread_times import ThreadTimes, shares_of_threads

SAMPLES = [
    (10.0, {1: 5.0, 2: 0.0}),
    (11.0, {1: 5.0, 2: 0.5, 3: 0.0}),
    (12.0, {1: 5.5, 2: 1.0, 3: 1.0}),
    (13.0, {1: 6.5, 2: 1.0}),
]


@pytest.mark.parametrize(
    ("begin", "end", "shares"),
    [
        (10.0, 12.0, {1: 0.25, 2: 0.5}),
        (10.5, 12.5, {1: 0.5, 2: 0.5, 3: 1.0}),
        (0.0, 99.0, {1: 0.5, 2: 1 / 3}),
        (10.1, 11.9, {}),
        (20.0, 30.0, {}),
    ],
)
def test_shares_between_two_times(begin: float, end: float, shares: dict[int, float]) -> None:
    assert shares_of_threads(SAMPLES, begin, end) == pytest.approx(shares)


def test_a_thread_that_computes_stands_out() -> None:
    is_over = threading.Event()
    content = bytes(1 << 20)

    def compute() -> None:
        while not is_over.is_set():
            hashlib.sha256(content)  # releases Python's lock, so that samples are taken meanwhile

    def await_samples(number: int) -> None:
        while len(times.samples) < number:
            time.sleep(0.05)

    with ThreadTimes() as times:
        worker = threading.Thread(target=compute, name="computes", daemon=True)
        worker.start()
        await_samples(3)
        begin = time.time()
        await_samples(len(times.samples) + 5)
        end = time.time()
        is_over.set()
        worker.join()
    shares = times.shares_between(begin, end)
    assert shares["computes"] > 0.05  # other processes may need the cores
    assert shares["main"] < shares["computes"]
    assert "thread times" not in shares
