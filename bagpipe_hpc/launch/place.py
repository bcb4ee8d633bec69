"""Where this rank runs, as placement needs to know it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from bagpipe_hpc.launch.role_placement import Place

GPU_DEVICES = ("nvidia[0-9]*", "kfd")
NO_DEVICES = ("", "-1", "NoDevFiles")


def place_of_this_rank() -> Place:
    """Host, and whether there is a GPU."""
    return Place(socket.gethostname(), sees_gpu(os.environ, Path("/dev")))


def sees_gpu(environment: Mapping[str, str], devices: Path) -> bool:
    """Whether this rank may use a GPU, found out without the seconds that importing torch takes."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if variable in environment:
            return environment[variable] not in NO_DEVICES
    return any(True for pattern in GPU_DEVICES for _ in devices.glob(pattern))
