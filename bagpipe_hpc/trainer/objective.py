"""The loss of each label, and how much each label counts."""

from __future__ import annotations

import torch
from torch.nn import functional

from bagpipe_hpc.config import Config, LabelConfig
from bagpipe_hpc.data.schema import Schema


class Objective:
    """The losses of the labels of a job.

    `weights` says how much each label counts, float32, shape (num_labels,), or () for one label.

    Args:
        config: Says which loss a label has, and how much it counts.
        schema: The schema of the samples.
        device: Where labels and logits are.
    """

    def __init__(self, config: Config, schema: Schema, device: torch.device) -> None:
        self.is_plain = schema.has_plain_labels and config.has_plain_objective
        self.may_miss_labels = any(label.optional for label in schema.labels)
        settings = [config.labels.get(label.name, LabelConfig()) for label in schema.labels]
        is_entropy = [
            (each.loss or ("bce" if label.kind == "binary" else "mse")) == "bce"
            for each, label in zip(settings, schema.labels, strict=True)
        ]
        self._all_entropies, self._no_entropies = all(is_entropy), not any(is_entropy)
        self._is_entropy = torch.tensor(is_entropy, device=device).reshape(schema.label_shape)
        weights = [each.weight for each in settings]
        self.weights = torch.tensor(weights, device=device).reshape(schema.label_shape)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of each sample and label, of the shape of the labels.

        Args:
            logits: What the model returns, float32, of the shape of the labels.
            labels: float32, shape (b,) or (b, num_labels), without missing ones.
        """
        if self._all_entropies:
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        squares = (logits - labels).square()
        if self._no_entropies:
            return squares
        entropies = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return torch.where(self._is_entropy, entropies, squares)
