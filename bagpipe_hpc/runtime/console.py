"""Where commands and the oracle show things.

What is shown holds names that users chose, so nothing in it is markup: rich would take [brackets] for styles and `:m:`
for a picture.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

PLAIN_WIDTH = 100
MIN_WIDTH = 80  # a narrower terminal breaks lines; a narrower table would cut off digits


def open_console() -> Console:
    """A console with colours and live lines where a person watches, plain text of fixed width elsewhere."""
    if _seen_on_a_terminal():
        console = Console(markup=False, emoji=False)
        console.width = max(MIN_WIDTH, console.width)
        return console
    return Console(force_terminal=False, width=PLAIN_WIDTH, markup=False, emoji=False)


def _seen_on_a_terminal() -> bool:
    """Whether a person watches. MPI launchers may give ranks a pseudo-terminal: what counts is the launcher's own."""
    if not sys.stdout.isatty():
        return False
    if "PMIX_RANK" not in os.environ:
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
