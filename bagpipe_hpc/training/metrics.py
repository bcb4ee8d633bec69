"""Quality of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a whole split."""

    num_samples: int
    auc: float | None  # None where all labels are equal
    log_loss: float


def evaluate_predictions(logits: Float32Array, labels: Float32Array) -> EvaluationResult:
    """Exact AUC (torchmetrics) and mean log loss of logits and labels, float32 (n,)."""
    predicted, expected = torch.from_numpy(logits), torch.from_numpy(labels)
    auc = float(binary_auroc(predicted.sigmoid(), expected.int())) if 0 < labels.sum() < len(labels) else None
    log_loss = functional.binary_cross_entropy_with_logits(predicted, expected)
    return EvaluationResult(len(labels), auc, float(log_loss))
