"""The sum of dense gradients over the trainers. Every trainer holds a copy of all dense parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.trainer.buffers import RowBuffer, fixed_rows
from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.device.base import ARRIVED, Arrival, Device, Mirror
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.waiting import waiting_for

BUCKET_BYTES = 1 << 19

Loss = Callable[[], float]


class DenseSynchronizer:
    """Sums gradients and the loss over the trainers while backward still runs.

    The parameters are split into buckets, beginning at the end of the model, where backward begins. A bucket is one
    flat buffer. Its sum starts as soon as all its gradients exist. The buckets depend on the model only. So the order
    of summation depends on the sizes of the buckets at most, and not on timing.

    If the gradients are in memory that the sum cannot reach, a bucket comes down as soon as it is full, and its sum
    starts when it has arrived: at the next full bucket, or in `finish`. Summed buckets go up again.

    Args:
        model: Its parameters get the summed gradients. Frozen parameters (without requires_grad) stay as they are.
        dense_sum: Sums buffers over the trainers.
        device: The device of the model.
        num_blocks: The number of blocks of this trainer in an iteration.
    """

    def __init__(self, model: torch.nn.Module, dense_sum: DenseSum, device: Device, num_blocks: int = 1) -> None:
        self._sum, self._device, self._num_blocks = dense_sum, device, num_blocks
        self._coming: list[_Bucket] = []  # full, and on their way to the sum
        self._losses = [RowBuffer(device), RowBuffer(device)]  # that of an iteration may be read in the next one
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
        self._buckets.append(_Bucket(parameters, self._sum, self._device, self._num_blocks, self._is_full))

    def _is_full(self, bucket: _Bucket) -> None:
        """Begin to bring a bucket to its sum, and start the sums of buckets that have arrived."""
        bucket.bring()
        self._coming.append(bucket)
        self._start_sums(wait=False)

    def _start_sums(self, *, wait: bool) -> None:
        while self._coming and self._coming[0].start(wait=wait):
            self._coming.pop(0)

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

    def finish(self) -> Loss:
        """Replace every gradient by its sum over the trainers.

        Returns:
            A function that returns the sum of the losses, until the `finish` of the second iteration after this one.
            If results of the device come late, it waits for the sum.
        Communication: collective over the trainers, complete on return.
        """
        self._start_sums(wait=True)
        for bucket in self._buckets:
            bucket.finish()
        return self._loss_of(self._buckets[0])

    def _loss_of(self, bucket: _Bucket) -> Loss:
        if bucket.is_on_host:
            value = float(bucket.host_loss)
            return lambda: value
        self._losses.reverse()

        def room(num_rows: int, columns: int, dtype: DTypeLike) -> Mirror:
            return self._losses[0].rows(num_rows, columns, dtype)

        loss = self._device.keep(bucket.device_loss, room)
        arrival = loss.down()

        def arrived() -> float:
            arrival.wait()
            return float(loss.host[0, 0])

        return arrived


class _Bucket:
    """Gradients that are summed together. The last element of the buffer is the loss, which costs four bytes.

    Args:
        parameters: The parameters, all of one device.
        dense_sum: Sums the buffer over the trainers.
        device: The device of the parameters.
        num_blocks: The number of blocks of this trainer in an iteration.
        is_full: Called with this bucket as soon as it has the gradients of all blocks.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        dense_sum: DenseSum,
        device: Device,
        num_blocks: int,
        is_full: Callable[[_Bucket], None],
    ) -> None:
        self._parameters, self._is_full = parameters, is_full
        sizes = [p.numel() for p in parameters]
        self._mirror = fixed_rows(device, sum(sizes) + 1, 1)
        self._buffer = device.as_tensor(self._mirror.device).view(-1)
        self._buffer.zero_()
        self.is_on_host = device.shares_memory or not dense_sum.sums_gpu_memory
        self._summed = torch.from_numpy(self._mirror.host).view(-1) if self.is_on_host else self._buffer
        self._travels = self.is_on_host and not device.shares_memory
        self._sum = dense_sum.bucket(self._summed)
        self._views = [v.view_as(p) for v, p in zip(self._buffer[:-1].split(sizes), parameters, strict=True)]
        self._blocks = TreeAccumulator() if num_blocks > 1 else None
        self._num_missing, self._is_last = 0, True
        self._arrival: Arrival = ARRIVED
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    @property
    def num_bytes(self) -> int:
        return self._buffer.numel() * 4

    @property
    def host_loss(self) -> torch.Tensor:
        return self._summed[-1]

    @property
    def device_loss(self) -> torch.Tensor:
        return self._buffer[-1:].view(1, 1)

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
        self._is_full(self)

    def bring(self) -> None:
        """Begin to bring the buffer to where it is summed."""
        if self._travels:
            self._arrival = self._mirror.down()

    def start(self, *, wait: bool) -> bool:
        """Start the sum if the buffer has arrived, or wait for that. Return whether the sum has started."""
        if wait:
            self._arrival.wait()
        elif not self._arrival.is_there():
            return False
        self._sum.start()
        return True

    def finish(self) -> None:
        with waiting_for("all other trainers: dense gradients"):
            self._sum.finish()
        if self._travels:
            self._mirror.up()
        for view, parameter in zip(self._views, self._parameters, strict=True):
            parameter.grad = view


def dense_parameters(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return all dense parameters by name, as float32 host arrays of their own shapes.

    On the CPU the arrays share the memory of the parameters.
    """
    return {name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()}
