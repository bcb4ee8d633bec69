"""Whether a host offers this process a GPU. It does not import torch, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# The variables that say which GPUs a process may use: of NVIDIA, and two of AMD.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
VARIABLES = (VISIBLE_GPUS, "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def offers_gpu(devices: Path = Path("/dev"), environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this host has a GPU that this process may use.

    Args:
        devices: The directory of device files.
        environ: The environment variables.
    """
    for variable in VARIABLES:
        first = environ.get(variable, "0").split(",")[0].strip()  # what follows a device that does not exist is ignored
        if first in ("", "-1") or first.lower() in ("none", "nodevfiles"):
            return False
    return (devices / "kfd").exists() or any(devices.glob("nvidia[0-9]*"))


def is_given_gpu(environ: Mapping[str, str], devices: Path) -> bool:
    """Return whether a rank was given a GPU: by the environment or, if that says nothing, because its host has one.

    Args:
        environ: The environment variables.
        devices: The directory of device files.
    """
    for variable in (VISIBLE_GPUS, "HIP_VISIBLE_DEVICES"):
        if variable in environ:
            return environ[variable] not in ("", "-1", "NoDevFiles")
    return any(True for pattern in ("nvidia[0-9]*", "kfd") for _ in devices.glob(pattern))
