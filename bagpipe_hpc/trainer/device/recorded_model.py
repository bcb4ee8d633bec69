"""The forward and the backward pass of a model for one number of samples, recorded once and replayed in training.

A device that records work (`Device.recording`) replays all of it by one call of the host. The addresses of all arrays
are part of a recording. So the inputs are copied to fixed places before a replay, and results are at fixed places.

    replay_forward     dense, embedded --copy--> fixed inputs;  the model;  fixed logits --copy--> logits
    replay_backward    gradient of the logits --copy--> fixed gradient;  the backward pass;  fixed gradients of embedded
                       and of the parameters

Gradients are handed out without a copy. They are valid until the next replay of the backward pass, and until then the
trainer has added up the gradients of rows and has copied those of parameters into their buckets. Everything is work of
the stream of the calling thread, so nothing else needs an order.

The operations are those of eager execution in the same order, so the bits are the same. Random numbers are too: the
device keeps where its generator stands when a replay begins, and moves it on as far as eager execution would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bagpipe_hpc.trainer.device.base import Forward, Recording


class RecordedModel:
    """Runs a model as a pair of recordings. Call it with inputs of the recorded size.

    Args:
        recording: Records work of the device.
        run: Computes logits from dense and embedded.
        parameters: The parameters that are trained. They stay where they are in memory.
        dense: float32, shape (b, num_dense), on the device. Becomes the place of dense features.
        embedded: float32, shape (b, num_tables, row_dim), on the device. Becomes the place of embeddings.
    """

    def __init__(
        self,
        recording: Recording,
        run: Forward,
        parameters: Sequence[torch.Tensor],
        dense: torch.Tensor,
        embedded: torch.Tensor,
    ) -> None:
        self._dense, self._embedded = dense, embedded.requires_grad_()
        self._parameters = list(parameters)
        inputs = [self._embedded, *self._parameters]
        computed: list[torch.Tensor] = []

        def forward() -> None:
            computed[:] = [run(self._dense, self._embedded)]

        def backward() -> None:
            self._gradients = torch.autograd.grad(computed, inputs, [self._gradient], allow_unused=True)

        def both() -> None:
            forward()
            self._gradient = torch.ones_like(computed[0])
            backward()
            computed.clear()

        recording.warm_up(both)
        self._forward = recording.record(forward)
        self._gradient = torch.ones_like(computed[0])
        self._backward = recording.record(backward)
        # Without its graph: the nodes of autograd that add up the gradients of parameters would go on to live, and to
        # work in the stream in which this was recorded.
        self._logits = computed.pop().detach()
        self._number = 0  # of the latest replay of the forward pass

    def __call__(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return the logits, with their gradient."""
        replay: Any = _Replay.apply
        logits: torch.Tensor = replay(self, dense, embedded, *self._parameters)
        return logits

    def replay_forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Return the logits, and the number of this replay for `replay_backward`."""
        self._dense.copy_(dense)
        self._embedded.detach().copy_(embedded)
        self._forward()
        self._number += 1
        return self._logits.clone(), self._number

    def replay_backward(self, number: int, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of embedded and of the parameters; None if the logits do not depend on one.

        Args:
            number: What `replay_forward` has returned.
            gradient: The gradient of the logits.
        Raises:
            RuntimeError: the forward pass was replayed again since then.
        """
        if number != self._number:
            raise RuntimeError(
                "batch.logits() was called again before the backward pass of the logits of an earlier call: with "
                "training.execution=graph, use the logits of one call, or call session.model"
            )
        self._gradient.copy_(gradient)
        self._backward()
        return tuple(None if each is None else each.detach() for each in self._gradients)


class _Replay(torch.autograd.Function):
    """A replay as an operation of autograd, whose inputs are those of the model and its parameters."""

    @staticmethod
    def forward(
        ctx: Any, recorded: RecordedModel, dense: torch.Tensor, embedded: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        ctx.recorded = recorded
        logits, ctx.number = recorded.replay_forward(dense, embedded)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *ctx.recorded.replay_backward(ctx.number, gradient)
