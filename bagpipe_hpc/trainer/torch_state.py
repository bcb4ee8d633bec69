"""Torch's settings of the process, which a job changes and which a program that runs jobs wants back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keeping_torch() -> Iterator[None]:
    """After the block, torch's random numbers, threads and choice of algorithms are as they were before."""
    random_state = torch.get_rng_state()
    num_threads = torch.get_num_threads()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_rng_state(random_state)
        torch.set_num_threads(num_threads)
        torch.use_deterministic_algorithms(is_deterministic)
