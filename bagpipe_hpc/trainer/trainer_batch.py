"""The interface of a training loop to one iteration: a trainer's share of the batch, as torch tensors on its device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch.nn import functional

from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.base import Forward

Tensor = torch.Tensor


class TrainerBatch:
    """The share of one trainer in an iteration, between the arrival of its rows and the use of their gradients.

    `iteration` is the number of training iterations of the whole job before this one. `labels` are float32, shape (b,),
    where b is the number of samples of the share. `num_global_samples` is the number of samples in the shares of all
    trainers.

    Args:
        plan: The plan of the iteration.
        labels: float32, shape (b,).
        dense: Dense features, float32, shape (b, num_dense).
        embedded: Embeddings, float32, shape (b, num_tables, row_dim).
        rows: The rows that embedded was pooled from, float32, shape (n, row_dim). Backward gives them their gradients.
        table_names: The name of each table, in the order of embedded.
        model: Maps (dense, embedded) to logits.
        forward: Does the same, as training.execution says. It need not be able to serve without gradients.
        precision: Returns the context in which the model computes.
        before_backward: `step` calls it with the loss before it goes backward.
    """

    def __init__(
        self,
        plan: TrainerPlan,
        *,
        labels: Tensor,
        dense: Tensor,
        embedded: Tensor,
        rows: Tensor,
        table_names: tuple[str, ...],
        model: torch.nn.Module,
        forward: Forward,
        precision: Callable[[], AbstractContextManager[object]],
        before_backward: Callable[[Tensor], None],
    ) -> None:
        self.iteration, self.num_global_samples = plan.num_trained, plan.num_global_samples
        self.labels, self.dense, self.embedded = labels, dense, embedded
        self.model, self._forward = model, forward
        self._rows, self._table_names = rows, table_names
        self._precision, self._before_backward = precision, before_backward
        self._is_stepped = False

    def __len__(self) -> int:
        """Return the number of samples of the share."""
        return len(self.labels)

    def __getitem__(self, table: str) -> Tensor:
        """Return the embeddings of one table, float32, shape (b, row_dim).

        Raises:
            KeyError: there is no such table. The message names all tables.
        """
        if table not in self._table_names:
            raise KeyError(f"there is no table {table!r}; the tables are {', '.join(self._table_names)}")
        return self.embedded[:, self._table_names.index(table)]

    def logits(self) -> Tensor:
        """Return the logits of the model, float32, shape (b,).

        The model computes in training.precision, and in training it runs as training.execution says.
        """
        with self._precision():
            logits = self._forward(self.dense, self.embedded)
        return logits.float()

    def mean(self, losses: Tensor) -> Tensor:
        """Return the part of this share in the mean loss over the global batch, a scalar for `step`.

        Args:
            losses: One loss per sample, of any float dtype, shape (b,).
        Raises:
            OwnModelError: losses has another shape.
        Communication: none.
        """
        if losses.shape != self.labels.shape:
            raise OwnModelError(
                f"mean() was given losses of shape {tuple(losses.shape)} for {len(self)} samples: it takes one loss "
                f'per sample, shape ({len(self)},), as losses with reduction="none" are'
            )
        return losses.sum() / self.num_global_samples

    def step(self, loss: Tensor) -> None:
        """Go backward from the loss. The optimizers step after all trainers have called this method.

        Args:
            loss: A scalar. Its sum over all trainers is the loss that the job minimises and reports.
        Raises:
            OwnModelError: the loss is no such scalar, this is the second step on this batch, or the caller has called
                backward() itself.
        Communication: starts the allreduces of dense gradients.
        """
        if self._is_stepped:
            raise OwnModelError(
                f"a second step in iteration {self.iteration}: add up the losses of a batch and call step once"
            )
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            raise OwnModelError(
                f"step() was given {_described(loss)}: it takes a scalar tensor that depends on the model or on "
                "batch.embedded, such as batch.mean(losses)"
            )
        if self._rows.grad is not None:
            raise OwnModelError(
                f"backward() was called in iteration {self.iteration}, so gradients would count twice: remove this "
                "call, because step() calls backward() itself"
            )
        self._is_stepped = True
        self._before_backward(loss)
        loss.backward()


def skip_step(batch: TrainerBatch) -> None:
    """Make the step of a share without samples. All its gradients are zero.

    Communication: starts the allreduces of dense gradients.
    """
    batch.step(batch.embedded.sum())


def row_gradients(batch: TrainerBatch) -> Tensor:
    """Return the gradients of all rows of the share after the step, float32, shape (n, row_dim).

    Raises:
        OwnModelError: the caller has not made a step on this batch.
    """
    if not batch._is_stepped:
        raise OwnModelError(
            f"no step in iteration {batch.iteration}: call session.step(loss) on every batch; for a batch that must "
            "not change the model, call session.step(0 * loss)"
        )
    return torch.zeros_like(batch._rows) if batch._rows.grad is None else batch._rows.grad


def train_on_labels(batch: TrainerBatch) -> None:
    """Make the step of click prediction, whose loss is the binary cross-entropy of the logits.

    Communication: starts the allreduces of dense gradients.
    """
    losses = functional.binary_cross_entropy_with_logits(batch.logits(), batch.labels, reduction="sum")
    batch.step(losses / batch.num_global_samples)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    gradient = "with" if value.requires_grad else "without"
    return f"a tensor of shape {tuple(value.shape)} {gradient} gradient"
