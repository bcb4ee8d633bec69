"""What a training loop sees of an iteration: a trainer's share of the batch, as torch tensors on its device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.protocol.plan import TrainerPlan

Tensor = torch.Tensor


class TrainerBatch:
    """One share, between the arrival of its rows and the use of their gradients.

    Args:
        plan: Of the iteration.
        dense: float32 (b, num_dense), b the samples of the share.
        embedded: float32 (b, num_tables, row_dim).
        rows: What embedded was made of; gets the gradient.
        table_names: Of each table, in the order of embedded.
        model: (dense, embedded) -> logits.
        in_bfloat16: Whether `logits` computes in bfloat16 where torch.autocast finds that safe.
        before_backward: Called with the loss.

    `iteration` is the number of training iterations of the whole job before this one, `labels` are float32 (b,), and
    `num_global_samples` is the number of samples of all trainers' shares.
    """

    def __init__(
        self,
        plan: TrainerPlan,
        *,
        dense: Tensor,
        embedded: Tensor,
        rows: Tensor,
        table_names: tuple[str, ...],
        model: torch.nn.Module,
        in_bfloat16: bool,
        before_backward: Callable[[Tensor], None],
    ) -> None:
        self.iteration, self.num_global_samples = plan.num_trained, plan.num_global_samples
        self.dense, self.embedded = dense, embedded
        self.labels = torch.from_numpy(plan.labels).to(dense.device)
        self.model = model
        self._rows, self._table_names = rows, table_names
        self._in_bfloat16, self._before_backward = in_bfloat16, before_backward
        self._is_stepped = False

    def __len__(self) -> int:
        """Samples of the share."""
        return len(self.labels)

    def __getitem__(self, table: str) -> Tensor:
        """Embeddings of one table, float32 (b, row_dim).

        Raises:
            KeyError: names the tables there are.
        """
        if table not in self._table_names:
            raise KeyError(f"{table!r} is no table; there are {', '.join(self._table_names)}")
        return self.embedded[:, self._table_names.index(table)]

    def logits(self) -> Tensor:
        """What the model makes of the share, float32 (b,); computed in `training.precision`."""
        with torch.autocast(self.dense.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            logits: Tensor = self.model(self.dense, self.embedded)
        return logits.float()

    def mean(self, losses: Tensor) -> Tensor:
        """This share's part of the mean over the global batch: what `step` takes.

        Args:
            losses: One per sample, (b,).
        Raises:
            OwnModelError: there are more or fewer.
        """
        if losses.shape != self.labels.shape:
            raise OwnModelError(
                f"mean() was given losses of shape {tuple(losses.shape)} for {len(self)} samples: it takes one loss "
                f'per sample, shape ({len(self)},), as losses with reduction="none" are'
            )
        return losses.sum() / self.num_global_samples

    def step(self, loss: Tensor) -> None:
        """Go backward from the loss; the optimizers step when all trainers have.

        Args:
            loss: A scalar. The sum over all trainers is what is trained on and reported.
        Raises:
            OwnModelError: it is no such loss, the second of this batch, or backward() was called.
        Communication: starts the allreduce of dense gradients.
        """
        if self._is_stepped:
            raise OwnModelError(f"a second step in iteration {self.iteration}: sum up the losses of a batch, step once")
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            raise OwnModelError(
                f"step() was given {_described(loss)}: it takes a scalar tensor that depends on the model or on "
                "batch.embedded, such as batch.mean(losses)"
            )
        if self._rows.grad is not None:
            raise OwnModelError(
                f"backward() was called in iteration {self.iteration}, and gradients would count twice: step does that"
            )
        self._is_stepped = True
        self._before_backward(loss)
        loss.backward()


def skip_step(batch: TrainerBatch) -> None:
    """Make the step of a share without samples: all gradients are zero."""
    batch.step(batch.embedded.sum())


def row_gradients(batch: TrainerBatch) -> Tensor:
    """Return the gradients that the step on a batch left, float32 (n, row_dim), one for each row of the share.

    Raises:
        OwnModelError: no step was made.
    """
    if not batch._is_stepped:
        raise OwnModelError(
            f"no step in iteration {batch.iteration}: every batch needs session.step(loss), also one that is to "
            "change nothing: 0 * loss"
        )
    return torch.zeros_like(batch._rows) if batch._rows.grad is None else batch._rows.grad


def train_on_labels(batch: TrainerBatch) -> None:
    """The step of click prediction: binary cross-entropy of the logits."""
    losses = functional.binary_cross_entropy_with_logits(batch.logits(), batch.labels, reduction="sum")
    batch.step(losses / batch.num_global_samples)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    gradient = "with" if value.requires_grad else "without"
    return f"a tensor of shape {tuple(value.shape)} {gradient} gradient"
