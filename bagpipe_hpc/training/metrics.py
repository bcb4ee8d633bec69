"""Quality of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from bagpipe_hpc.errors import BagpipeError

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a whole split."""

    num_samples: int
    auc: float | None  # None, like the two below, where all labels are equal
    log_loss: float
    normalised_entropy: float | None  # log loss over that of always predicting the mean label (He et al. 2014)
    calibration: float | None  # mean prediction over mean label


def evaluate_predictions(logits: Float32Array, labels: Float32Array) -> EvaluationResult:
    """Metrics of logits and labels, float32 (n,); AUC is exact (torchmetrics)."""
    predicted, expected = torch.from_numpy(logits), torch.from_numpy(labels)
    log_loss = float(functional.binary_cross_entropy_with_logits(predicted, expected))
    mean_label = float(labels.mean(dtype=np.float64))
    if not 0 < mean_label < 1:
        return EvaluationResult(len(labels), None, log_loss, None, None)
    probabilities = predicted.sigmoid()
    entropy = -(mean_label * math.log(mean_label) + (1 - mean_label) * math.log(1 - mean_label))
    return EvaluationResult(
        len(labels),
        auc=float(binary_auroc(probabilities, expected.int())),
        log_loss=log_loss,
        normalised_entropy=log_loss / entropy,
        calibration=float(probabilities.double().mean()) / mean_label,
    )


def save_predictions(path: Path, logits: Float32Array) -> None:
    """Click probabilities as a NumPy file, float32 (n,).

    Raises:
        BagpipeError: it cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, torch.from_numpy(logits).sigmoid().numpy())
    except OSError as error:
        raise BagpipeError(f"{path} cannot be written: {error.strerror}; choose another --output") from None
