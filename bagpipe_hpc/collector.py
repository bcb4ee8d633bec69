"""Python's garbage collector, and the start of a job: torch alone makes half a million objects on import, all of which
stay, and looking for garbage among them again and again took a fifth of the start.
"""

from __future__ import annotations

import gc


def pause_collector() -> None:
    """Nothing is looked for from here on."""
    gc.disable()


def resume_collector() -> None:
    """As ever from here on, but for what is there already, which stays."""
    gc.freeze()
    gc.enable()
