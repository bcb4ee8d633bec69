"""A directory for temporary files that is removed at the end, unless SIGKILL ends the process."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """Make a directory under TMPDIR for the block, and remove it with its content afterwards.

    A signal that ends the process removes it, too. The signal handler removes it itself, because a library's callback
    could swallow an exception that the handler raises. Call it in the main thread, where signal handlers must be set.
    """
    directory = Path(tempfile.mkdtemp(prefix=prefix))

    def remove_and_end(signum: int, _: FrameType | None) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    before = {signum: signal.signal(signum, remove_and_end) for signum in ENDING}
    try:
        yield directory
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        shutil.rmtree(directory, ignore_errors=True)
