"""The sum of dense gradients over the trainers. Every trainer holds a copy of all dense parameters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.waiting import waiting_for

BUCKET_BYTES = 1 << 19


class DenseSynchronizer:
    """Sums gradients and the loss over the trainers while backward still runs.

    The parameters are split into buckets, beginning at the end of the model, where backward begins. A bucket is one
    flat buffer. Its sum starts as soon as all its gradients exist. The buckets depend on the model only. So the order
    of summation depends on the sizes of the buckets at most, and not on timing.

    Args:
        model: Its parameters get the summed gradients. Frozen parameters (without requires_grad) stay as they are.
        dense_sum: Sums buffers over the trainers.
        num_blocks: The number of blocks of this trainer in an iteration.
    """

    def __init__(self, model: torch.nn.Module, dense_sum: DenseSum, num_blocks: int = 1) -> None:
        self._sum, self._num_blocks = dense_sum, num_blocks
        self._buckets: list[_Bucket] = []
        pending: list[torch.nn.Parameter] = []
        for parameter in reversed([each for each in model.parameters() if each.requires_grad]):
            pending.append(parameter)
            if 4 * sum(p.numel() for p in pending) >= BUCKET_BYTES:
                self._add_bucket(pending)
                pending = []
        if pending:
            self._add_bucket(pending)

    def _add_bucket(self, parameters: list[torch.nn.Parameter]) -> None:
        self._buckets.append(_Bucket(parameters, self._sum, self._num_blocks))

    @property
    def num_bytes(self) -> int:
        """The number of bytes that one iteration sums."""
        return sum(bucket.num_bytes for bucket in self._buckets)

    def start(self, loss: torch.Tensor, *, is_last: bool = True) -> None:
        """Prepare for the backward pass of a block.

        Args:
            loss: A scalar. Every bucket carries it, so its sum costs no collective of its own.
            is_last: Whether this is the last block of the iteration. The gradients of all blocks are summed before they
                are summed over the trainers.
        Communication: collective over the trainers, from the last block to the return of `finish`.
        """
        for bucket in self._buckets:
            bucket.expect(loss.detach(), is_last)

    def end_block(self) -> None:
        """Note that the backward pass of a block has ended: parameters without a gradient will get none."""
        for bucket in self._buckets:
            bucket.end_block()

    def finish(self) -> float:
        """Replace every gradient by its sum over the trainers.

        Returns:
            The sum of the losses.
        Communication: collective over the trainers, complete on return.
        """
        losses = [bucket.finish() for bucket in self._buckets]
        return losses[0]


class _Bucket:
    """Gradients that are summed together. The last element of the buffer is the loss, which costs four bytes."""

    def __init__(self, parameters: list[torch.nn.Parameter], dense_sum: DenseSum, num_blocks: int) -> None:
        self._parameters = parameters
        device = parameters[0].device
        sizes = [p.numel() for p in parameters]
        self._buffer = torch.zeros(sum(sizes) + 1, dtype=torch.float32, device=device)
        in_place = device.type == "cpu" or dense_sum.sums_gpu_memory
        self._reduced = self._buffer if in_place else torch.empty_like(self._buffer, device="cpu", pin_memory=True)
        self._sum = dense_sum.bucket(self._reduced)
        self._views = [v.view_as(p) for v, p in zip(self._buffer[:-1].split(sizes), parameters, strict=True)]
        self._blocks = TreeAccumulator() if num_blocks > 1 else None
        self._num_missing, self._is_last = 0, True
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    @property
    def num_bytes(self) -> int:
        return self._buffer.numel() * 4

    def expect(self, loss: torch.Tensor, is_last: bool) -> None:
        self._buffer[-1] = loss
        self._num_missing, self._is_last = len(self._parameters), is_last

    def _arrived(self, _: torch.Tensor) -> None:
        self._num_missing -= 1
        if self._num_missing == 0:
            self._add_block()

    def end_block(self) -> None:
        if self._num_missing:  # backward gave no gradient to some parameter: the loss does not depend on it
            self._num_missing = 0
            self._add_block()

    def _add_block(self) -> None:
        for view, parameter in zip(self._views, self._parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        if self._blocks is not None:
            self._blocks.add(self._buffer.clone())
            if not self._is_last:
                return
            self._buffer.copy_(self._blocks.total())
        if self._reduced is not self._buffer:
            self._reduced.copy_(self._buffer)
        self._sum.start()

    def finish(self) -> float:
        with waiting_for("all other trainers: dense gradients"):
            self._sum.finish()
        if self._reduced is not self._buffer:
            self._buffer.copy_(self._reduced)
        for view, parameter in zip(self._views, self._parameters, strict=True):
            parameter.grad = view
        return float(self._buffer[-1])


def dense_parameters(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return all dense parameters by name, as float32 host arrays of their own shapes.

    On the CPU the arrays share the memory of the parameters.
    """
    return {name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()}
