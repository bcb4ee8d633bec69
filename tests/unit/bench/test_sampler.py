"""Samples while a block runs."""

from __future__ import annotations

from bagpipe_hpc.bench.sampler import Sampler


def test_the_last_sample_is_after_the_end_of_the_block() -> None:
    sent = iter(range(10**6))
    with Sampler("numbers", lambda: next(sent), 0.02) as watch:
        pass
    assert watch.samples[-1][1] == len(watch.samples) - 1
