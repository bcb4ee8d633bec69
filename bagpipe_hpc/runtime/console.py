"""The console that commands and the oracle print tables and live lines to.

Their text holds names that users have chosen, so the console has no markup: otherwise rich would read [brackets] as
styles and `:m:` as a picture.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

PLAIN_WIDTH = 100
MIN_WIDTH = 80  # a narrower table would cut off digits; a narrower terminal only breaks its lines


def open_console() -> Console:
    """Return a console with colours and live lines on a terminal, and with plain text of fixed width elsewhere."""
    if _seen_on_a_terminal():
        console = Console(markup=False, emoji=False)
        console.width = max(MIN_WIDTH, console.width)
        return console
    return Console(force_terminal=False, width=PLAIN_WIDTH, markup=False, emoji=False)


def _seen_on_a_terminal() -> bool:
    """Return whether the output is seen on a terminal.

    An MPI launcher may give ranks a pseudo-terminal. Then the output of the launcher itself counts.
    """
    if not sys.stdout.isatty():
        return False
    if "PMIX_RANK" not in os.environ:
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
