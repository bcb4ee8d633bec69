"""The run directory, where the oracle writes config.yaml, metrics.jsonl, summary.json and, last of all, DONE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.errors import BagpipeError

DONE = "DONE"  # names the file that says that training is complete


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Errors of the file system inside the block become the user's to mend.

    Args:
        path: What is written, the run directory or a file in it.
    Raises:
        BagpipeError: names path, cause and cure.
    """
    try:
        yield
    except OSError as error:
        raise BagpipeError(
            f"{path} cannot be written: {error.strerror}; free space, mend permissions or choose another --run-dir"
        ) from None
