"""Whether this process can use Horovod, and for which trainers it has started it. It does not import Horovod.

The state of Horovod belongs to the process. The first job starts Horovod for its trainers, and no later job of the same
processes can start it for other trainers: if some ranks run it already, the start waits forever on the others, and a
start after a shutdown crashes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

Ranks = tuple[int, ...]

NOT_INSTALLED = "Horovod is not installed"

# The trainers that this process has started Horovod with, each by its rank in the launch; None before Horovod starts.
_horovod_ranks: Ranks | None = None


def note_horovod_ranks(ranks: Ranks) -> None:
    """Note that this process has started Horovod with these trainers."""
    global _horovod_ranks
    _horovod_ranks = ranks


def horovod_ranks() -> Ranks | None:
    """Return the trainers that this process has started Horovod with, or None."""
    return _horovod_ranks


def fault_of_horovod() -> str:
    """Return why Horovod cannot be used in this process, without importing it; empty if it can."""
    found = importlib.util.find_spec("horovod")
    if found is None:
        return NOT_INSTALLED
    places = [Path(place) for place in found.submodule_search_locations or ()]
    if not any((place / "torch").is_dir() for place in places):
        return "Horovod is installed without its part for torch"
    return ""


def fits_horovod(trainers: Ranks, started: set[Ranks | None]) -> bool:
    """Return whether Horovod can sum over these trainers.

    Args:
        trainers: The rank of each trainer in the launch.
        started: The sets of trainers that these ranks have started Horovod with; None for a rank that has not.
    """
    return started in ({None}, {trainers})
