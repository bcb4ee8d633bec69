"""Settings of torch for the whole process. A job changes them, and the program that runs the job gets them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keeping_torch() -> Iterator[None]:
    """Restore torch's random numbers, number of threads and choice of algorithms when the block ends."""
    random_state = torch.get_rng_state()
    num_threads = torch.get_num_threads()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    fills_memory = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_rng_state(random_state)
        torch.set_num_threads(num_threads)
        if torch.are_deterministic_algorithms_enabled() != is_deterministic:  # the call makes a directory
            torch.use_deterministic_algorithms(is_deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fills_memory  # type: ignore[attr-defined]
