"""The energy that a node and a GPU use while a job runs, where the machine lets a user read it.

RAPL is a counter of the processor packages and of the memory of a node, in /sys/class/powercap. It counts everything
that runs on the node, and many systems let only root read it. Its counters begin again at 0 within an hour or less, so
a thread reads them every minute. A GPU has a counter of its own, which the trainer's device layer reads.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
SECONDS_PER_READING = 60.0

_COUNTED = ("package", "dram")  # names of domains; core and uncore are part of a package, psys overlaps with all


class WrappingCounter:
    """Adds up the differences of a counter that begins again at 0 after its largest value.

    Args:
        read: Returns the counter.
        limit: Its range: the value after the largest one is 0.
    """

    def __init__(self, read: Callable[[], int], limit: int) -> None:
        self._read, self._limit = read, limit
        self._last = read()
        self.total = 0

    def update(self) -> None:
        """Read the counter. It must not have gone round more than once since the last time."""
        now = self._read()
        self.total += now - self._last if now >= self._last else now + self._limit - self._last
        self._last = now


def rapl_counters(root: Path = POWERCAP) -> list[WrappingCounter]:
    """Return the counters of this node in microjoules; none if the node has none or the user may not read them.

    Communication: none.
    """
    counters = []
    for directory in sorted(root.glob("intel-rapl:*")):  # the name is the same for processors of AMD
        try:
            name = (directory / "name").read_text(encoding="ascii").strip()
            limit = int((directory / "max_energy_range_uj").read_text(encoding="ascii"))
            if name.startswith(_COUNTED):
                counters.append(WrappingCounter(_reader(directory / "energy_uj"), limit))
        except (OSError, ValueError):
            continue
    return counters


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text(encoding="ascii"))


class EnergyMeter:
    """Measures from its making on.

    Args:
        gpu: The unique name of the GPU of this rank, and what returns its counter in joules. None: it has none.
        root: The directory of the counters of the node.
    """

    def __init__(self, gpu: tuple[str, Callable[[], float]] | None = None, root: Path = POWERCAP) -> None:
        self._counters = rapl_counters(root)
        self._gpu = gpu
        self._gpu_began = gpu[1]() if gpu else 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_lost = False
        if self._counters:
            threading.Thread(target=self._keep_reading, name="energy", daemon=True).start()

    def reading(self) -> dict[str, Any]:
        """Return the energy so far, in joules, as JSON values: `host`, `node` (None: not readable) and `gpus`.

        Communication: none.
        """
        self._update()
        node = sum(counter.total for counter in self._counters) / 1e6
        gpus = {self._gpu[0]: self._gpu[1]() - self._gpu_began} if self._gpu else {}
        is_known = bool(self._counters) and not self._is_lost
        return {"host": socket.gethostname(), "node": node if is_known else None, "gpus": gpus}

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _keep_reading(self) -> None:
        while not self._ended.wait(SECONDS_PER_READING):
            self._update()

    def _update(self) -> None:
        with self._lock:
            try:
                for counter in self._counters:
                    counter.update()
            except (OSError, ValueError):
                self._is_lost = True
