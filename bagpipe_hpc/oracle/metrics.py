"""Metrics of the quality of predictions, and the file of predictions."""

from __future__ import annotations

import io
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import BagpipeError

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of a whole split.

    All metrics are None if samples have no labels. All but log_loss are None if all labels are equal or a prediction is
    not finite.

    Args:
        num_samples: The number of samples.
        auc: The area under the ROC curve.
        log_loss: The mean binary cross-entropy.
        normalised_entropy: log_loss, divided by the log loss of always predicting the mean label (He et al. 2014).
        calibration: The mean prediction, divided by the mean label.
    """

    num_samples: int
    auc: float | None
    log_loss: float | None
    normalised_entropy: float | None
    calibration: float | None


def without_labels(num_samples: int) -> EvaluationResult:
    """Return the result of an evaluation of samples without labels. It has no metrics."""
    return EvaluationResult(num_samples, None, None, None, None)


def evaluate_predictions(logits: Float32Array, labels: Float32Array) -> EvaluationResult:
    """Return the metrics of predictions. The AUC is exact.

    Args:
        logits: float32, shape (n,).
        labels: 0 or 1, float32, shape (n,).
    """
    exact = logits.astype(np.float64)
    log_predicted = _log_sigmoid(exact)
    log_loss = float(np.mean(exact - exact * labels - log_predicted))
    mean_label = float(labels.mean(dtype=np.float64))
    if not 0 < mean_label < 1 or not np.isfinite(logits).all():
        return EvaluationResult(len(labels), None, log_loss, None, None)
    entropy = -(mean_label * math.log(mean_label) + (1 - mean_label) * math.log(1 - mean_label))
    return EvaluationResult(
        len(labels),
        auc=_auc(logits[labels == 1], logits[labels == 0]),
        log_loss=log_loss,
        normalised_entropy=log_loss / entropy,
        calibration=float(np.exp(log_predicted).mean()) / mean_label,
    )


def _auc(positive: Float32Array, negative: Float32Array) -> float:
    """Return the probability that a positive sample has a larger logit than a negative one. A tie counts half."""
    positive, negative = np.sort(positive), np.sort(negative)
    num_below = int(np.searchsorted(negative, positive, "left").sum())
    num_up_to = int(np.searchsorted(negative, positive, "right").sum())
    return (num_below + num_up_to) / (2 * len(positive) * len(negative))


def _log_sigmoid(logits: Float64Array) -> Float64Array:
    return np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))


def require_new_output(path: Path) -> None:
    """Check, before the job starts, that predictions can be written to a new NumPy file, or that the path is a device.

    Raises:
        BagpipeError: they cannot. The message says what is wrong with the path and what mends it.
    """
    directory = path.parent
    problem = ""
    if path.is_dir():
        problem = "is a directory; name a file in it, such as clicks.npy"
    elif path.is_file():
        problem = "exists; choose another --output or remove it"
    elif path.exists():
        return
    elif path.suffix != ".npy":
        problem = "will be a NumPy file, so its name must end with .npy; add .npy to --output"
    elif not directory.is_dir():
        problem = f"cannot be written: there is no directory {directory}; make it, or choose another --output"
    elif not os.access(directory, os.W_OK | os.X_OK):
        problem = (
            f"cannot be written: the directory {directory} is not writable; mend its permissions, or choose another "
            "--output"
        )
    if problem:
        raise BagpipeError(f"{path} {problem}")


def save_predictions(path: Path, logits: Float32Array) -> None:
    """Write click probabilities into a NumPy file, float32, shape (n,).

    Args:
        path: The file, or a device.
        logits: float32, shape (n,).
    Raises:
        BagpipeError: the file cannot be written.
    """
    content = io.BytesIO()  # NumPy's own errors do not say why a file cannot be written
    np.save(content, np.exp(_log_sigmoid(logits.astype(np.float64))).astype(np.float32))
    try:
        with path.open("wb", buffering=0) as file:
            view = content.getbuffer()
            while view:
                view = view[file.write(view) or 0 :]
    except OSError as error:
        if path.is_file():  # a device stays
            with suppress(OSError):
                path.unlink()  # a part of the predictions is worse than no file
        raise BagpipeError(
            f"{path} cannot be written: {error.strerror}; free space or choose another --output"
        ) from None
