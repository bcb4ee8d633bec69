"""Python's garbage collector during the start of a job. torch alone creates half a million objects on import, which all
stay. Searching them for garbage again and again took a fifth of the start.
"""

from __future__ import annotations

import gc

_is_paused = False


def pause_collector() -> None:
    """Turn garbage collection off."""
    global _is_paused
    _is_paused = True
    gc.disable()


def resume_collector() -> None:
    """Turn garbage collection on again, if `pause_collector` turned it off.

    Objects that exist now are never scanned: they live as long as the process.
    """
    global _is_paused
    if _is_paused:
        gc.freeze()
        gc.enable()
    _is_paused = False
