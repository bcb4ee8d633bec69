"""Copies of the states of torch's random number generators, as a checkpoint holds them: host arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.trainer.device import Device

CPU, GPU = "torch_rng", "cuda_rng"


def keep_random_state(device: Device) -> dict[str, NDArray[np.uint8]]:
    """Return copies of the states of the generators that a trainer on this device may use.

    Returns:
        uint8, shape (n,), by the name of the generator.
    """
    states = {CPU: torch.get_rng_state().numpy()}
    if device.type == "cuda":
        states[GPU] = torch.cuda.get_rng_state(device).numpy()
    return states


def restore_random_state(device: Device, states: Mapping[str, Any]) -> None:
    """Restore what `keep_random_state` returned.

    The generator of the GPU is restored if this trainer has a GPU and the states are of one that had a GPU too.

    Args:
        device: The device of this trainer.
        states: uint8, shape (n,), by the name of the generator.
    Raises:
        CheckpointError: torch does not accept a state.
    """
    try:
        torch.set_rng_state(torch.from_numpy(states[CPU]))
        if device.type == "cuda" and GPU in states:
            torch.cuda.set_rng_state(torch.from_numpy(states[GPU]), device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"torch cannot restore the state of its random numbers from the checkpoint "
            f"({' '.join(str(error).split())}): the state is damaged, or of another release of torch; use another "
            "checkpoint, or start once with another number of trainers"
        ) from error


def seed_of_block(seed: int, num_trained: int, block: int) -> int:
    """Return the seed of the random numbers that a model draws for a block of samples, from 0 to 2**63 - 1.

    Args:
        seed: The seed of the job.
        num_trained: The number of training iterations of the whole job before this one.
        block: The number of the block.
    """
    digest = hashlib.blake2b(f"{seed} {num_trained} {block}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
