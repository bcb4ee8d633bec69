"""torch's random number generators as host arrays and back: what a checkpoint holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.trainer.device import Device

CPU, GPU = "torch_rng", "cuda_rng"


def keep_random_state(device: Device) -> dict[str, NDArray[np.uint8]]:
    """Copies of the states of the generators that a trainer on this device may draw from."""
    states = {CPU: torch.get_rng_state().numpy()}
    if device.type == "cuda":
        states[GPU] = torch.cuda.get_rng_state(device).numpy()
    return states


def restore_random_state(device: Device, states: Mapping[str, Any]) -> None:
    """Take over what `keep_random_state` returned; of a device of another kind only the host's generator.

    Raises:
        CheckpointError: it is no such state.
    """
    try:
        torch.set_rng_state(torch.from_numpy(states[CPU]))
        if device.type == "cuda" and GPU in states:
            torch.cuda.set_rng_state(torch.from_numpy(states[GPU]), device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the state of torch's random numbers in the checkpoint is none ({' '.join(str(error).split())}): it is "
            "damaged, or of another release of torch; use another checkpoint, or another number of trainers once"
        ) from error
