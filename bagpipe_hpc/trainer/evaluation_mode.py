"""Predicting with a model without a trace: training goes on as if nothing had been predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bagpipe_hpc.trainer.device import Device


@contextmanager
def undisturbed(model: torch.nn.Module, device: Device) -> Iterator[None]:
    """Inside the block, the model is in evaluation mode and no gradients are kept.

    Afterwards every module is in the mode it was in, and torch's random number generators are where they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
