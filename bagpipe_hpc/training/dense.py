"""Dense parameters: replicated on every trainer, gradients summed by Horovod."""

from __future__ import annotations

import horovod.torch as hvd
import numpy as np
import torch
from numpy.typing import NDArray


class DenseSynchronizer:
    """Sums gradients, and the loss with them, over the trainers in one allreduce of one flat buffer.

    A single tensor of constant size is always in flight alone: Horovod can fuse it with nothing, so the order of
    summation is MPI's for that size and does not depend on timing.

    Args:
        model: Its parameters get the summed gradients.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = list(model.parameters())
        size = sum(p.numel() for p in self._parameters)
        device = self._parameters[0].device
        self._buffer = torch.zeros(size + 1, dtype=torch.float32, device=device)
        pieces = self._buffer[:-1].split([p.numel() for p in self._parameters])
        # Without NCCL, Horovod sums in host memory; it is handed host memory then.
        in_place = device.type == "cpu" or hvd.nccl_built()
        self._reduced = self._buffer if in_place else torch.empty_like(self._buffer, device="cpu", pin_memory=True)
        self._views = [piece.view_as(p) for piece, p in zip(pieces, self._parameters, strict=True)]

    @property
    def num_bytes(self) -> int:
        """Bytes of one allreduce."""
        return self._buffer.numel() * 4

    def synchronise(self, loss: torch.Tensor) -> float:
        """Replace every gradient by its sum over the trainers; returns the summed loss.

        Communication: collective over the trainers.
        """
        for view, parameter in zip(self._views, self._parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        self._buffer[-1] = loss.detach()
        if self._reduced is not self._buffer:
            self._reduced.copy_(self._buffer)
        hvd.allreduce_(self._reduced, op=hvd.Sum, name="dense_gradients_and_loss")
        if self._reduced is not self._buffer:
            self._buffer.copy_(self._reduced)
        for view, parameter in zip(self._views, self._parameters, strict=True):
            parameter.grad = view
        return float(self._buffer[-1])


def dense_parameters(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """All dense parameters by name, as host arrays."""
    return {name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()}
