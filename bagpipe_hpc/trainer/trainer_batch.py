"""The interface of a training loop to one iteration: a trainer's share of the batch, as torch tensors on its device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch.nn import functional

from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.base import Forward, PlacedSamples
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.objective import Objective

Tensor = torch.Tensor


class TrainerBatch:
    """The share of one trainer in an iteration, between the arrival of its rows and the use of their gradients.

    `iteration` is the number of training iterations of the whole job before this one. `num_global_samples` is the
    number of samples in the shares of all trainers; b is the number of those in this share.

    `labels` are float32, shape (b,), or (b, num_labels) if the schema has several. A missing label is 0 here, and
    `has_label`, bool, of the same shape, says which ones are there; it is None if no label can be missing.
    `sample_weights`, float32, shape (b,), and `groups`, int64, shape (b,), are None if samples have none.

    `items`, int32, shape (b,), are equal for samples of the batch with the same item. `item_counts`, int64, shape (b,),
    say how many training samples of the job so far, those of this iteration included, have the item of each sample.
    Both are None if the job does not count items, and `item_counts` also if the samples are evaluated on.

    Args:
        plan: The plan of the iteration.
        samples: The samples of the share.
        objective: The losses of the labels.
        embedded: Embeddings, float32, shape (b, num_tables, row_dim).
        sequences: The sequences that are not pooled, by name.
        rows: The rows of all this, float32, shape (n, row_dim). Backward gives them their gradients.
        table_names: The name of each table, in the order of embedded.
        items: See above.
        model: Maps (dense, embedded) to logits.
        forward: Does the same, as training.execution says. It need not be able to serve without gradients.
        precision: Returns the context in which the model computes.
        before_backward: `step` calls it with the loss before it goes backward.
    """

    def __init__(
        self,
        plan: TrainerPlan,
        *,
        samples: PlacedSamples,
        objective: Objective,
        embedded: Tensor,
        sequences: Mapping[str, JaggedSequence],
        rows: Tensor,
        table_names: tuple[str, ...],
        model: torch.nn.Module,
        forward: Forward,
        precision: Callable[[], AbstractContextManager[object]],
        before_backward: Callable[[Tensor], None],
        items: Tensor | None = None,
    ) -> None:
        self.iteration, self.num_global_samples = plan.num_trained, plan.num_global_samples
        self.labels, self.dense, self.embedded = samples.labels, samples.dense, embedded
        self.sequences = sequences
        self.has_label: Tensor | None = None
        if objective.may_miss_labels:
            self.has_label = ~samples.labels.isnan()
            self.labels = samples.labels.masked_fill(~self.has_label, 0)
        self.sample_weights = samples.sample_weights if len(samples.sample_weights) else None
        self.groups = samples.groups if len(samples.groups) else None
        self.items = items
        self.item_counts = samples.item_counts if len(samples.item_counts) else None
        self._objective, self._divisors = objective, samples.loss_divisors
        self._positive_weights = samples.positive_weights
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
        """Return the logits of the model, float32, of the shape of the labels.

        The model computes in training.precision, and in training it runs as training.execution says. For a real-valued
        label, the logit is the prediction itself.
        """
        with self._precision():
            logits = self._forward(self.dense, self.embedded, *([self.sequences] if self.sequences else []))
        return logits.float()

    def precision(self) -> AbstractContextManager[object]:
        """Return a context in which the model computes in training.precision."""
        return self._precision()

    def mean(self, losses: Tensor) -> Tensor:
        """Return the part of this share in the mean loss over the global batch: with one label a scalar for `step`.

        The mean is weighted with the sample weights. Samples whose label is missing do not count.

        Args:
            losses: One loss per sample and label, of any float dtype, of the shape of the labels.
        Returns:
            The part in the mean loss of each label, shape () or (num_labels,).
        Raises:
            OwnModelError: losses has another shape.
        Communication: none.
        """
        self._require_one_per_label("mean", losses)
        if not len(self._divisors):
            return losses.sum() / self.num_global_samples
        if self.has_label is not None:
            losses = losses.masked_fill(~self.has_label, 0)
        return self._weighted_sum(losses) / self._divisors.reshape(losses.shape[1:])

    def mean_of_positives(self, losses: Tensor) -> Tensor:
        """Return the part of this share in the mean loss over the samples of the global batch whose label is 1.

        The mean is weighted with the sample weights. The job must count items (model.item_features), because only then
        does the plan say how much all these samples weigh.

        Args:
            losses: As for `mean`.
        Returns:
            As `mean`.
        Raises:
            OwnModelError: losses has another shape, or the job does not count items.
        Communication: none.
        """
        self._require_one_per_label("mean_of_positives", losses)
        if not len(self._positive_weights):
            raise OwnModelError(
                "mean_of_positives() needs the weight of all samples whose label is 1, which only jobs that count "
                "items know: set model.item_features"
            )
        losses = losses.masked_fill(self.labels != 1, 0)
        return self._weighted_sum(losses) / self._positive_weights.reshape(losses.shape[1:])

    def _require_one_per_label(self, method: str, losses: Tensor) -> None:
        if losses.shape != self.labels.shape:
            each = "sample" if self.labels.dim() == 1 else "sample and label"
            raise OwnModelError(
                f"{method}() was given losses of shape {tuple(losses.shape)} for {len(self)} samples: it takes one "
                f'loss per {each}, shape {tuple(self.labels.shape)}, as losses with reduction="none" are'
            )

    def _weighted_sum(self, losses: Tensor) -> Tensor:
        """Return the sum over the samples, weighted with the sample weights, shape () or (num_labels,)."""
        if self.sample_weights is not None:
            losses = losses * self.sample_weights.reshape(-1, *[1] * (losses.dim() - 1))
        return losses.sum(0)

    def loss(self) -> Tensor:
        """Return the part of this share in the loss of the job, a scalar for `step`.

        If the model has a method `batch_loss`, the loss is what this method returns for the batch. Otherwise the
        settings describe it: it is the mean loss of each label, times the weight of the label, added up. The loss of a
        binary label is the binary cross-entropy, and that of a real-valued label the squared error, unless the settings
        say otherwise.

        Communication: none.
        """
        if (batch_loss := getattr(self.model, "batch_loss", None)) is not None:
            loss: Tensor = batch_loss(self)
            return loss
        logits = self.logits()
        if self._objective.is_plain:
            sum_of_losses = functional.binary_cross_entropy_with_logits(logits, self.labels, reduction="sum")
            return sum_of_losses / self.num_global_samples
        return (self.mean(self._objective.losses(logits, self.labels)) * self._objective.weights).sum()

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
    batch.step(batch.embedded.sum() + sum(sequence.embedded.sum() for sequence in batch.sequences.values()))


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
    """Make the step of a job without a training loop of its own: on the loss that the settings describe.

    Communication: starts the allreduces of dense gradients.
    """
    batch.step(batch.loss())


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    gradient = "with" if value.requires_grad else "without"
    return f"a tensor of shape {tuple(value.shape)} {gradient} gradient"
