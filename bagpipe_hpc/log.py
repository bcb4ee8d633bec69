"""What the package tells about a job, as records of the logger "bagpipe_hpc".

The `bagpipe` command prints the records. So do `run` and `session`, unless the program that calls them has configured
logging: then its handlers get the records.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("bagpipe_hpc")


@contextmanager
def printing_records(*, unless_configured: bool = False) -> Iterator[None]:
    """Print the records inside the block on standard output, at once.

    Args:
        unless_configured: Print nothing if the program has given the logger, or the root logger, a handler.
    """
    if (unless_configured and LOGGER.hasHandlers()) or is_printing():
        yield
        return
    printer, level, propagates = _Printer(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(printer)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(printer)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagates


@contextmanager
def warnings_only() -> Iterator[None]:
    """Pass on warnings alone inside the block: a benchmark runs a job whose tables would drown its own."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def is_printing() -> bool:
    """Return whether records are printed now."""
    return any(isinstance(handler, _Printer) for handler in LOGGER.handlers)


class _Printer(logging.Handler):
    """Prints records; a warning begins with "bagpipe: note: "."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "bagpipe: note: " if record.levelno >= logging.WARNING else ""
        print(f"{prefix}{record.getMessage()}", flush=True)  # at once: a launcher may end this process soon
