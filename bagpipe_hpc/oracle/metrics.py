"""Quality of predictions."""

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
    """Metrics of a whole split."""

    num_samples: int
    auc: float | None  # None, like the two below, where all labels are equal or a prediction is not finite
    log_loss: float | None  # None, like all others, where samples have no labels
    normalised_entropy: float | None  # log loss over that of always predicting the mean label (He et al. 2014)
    calibration: float | None  # mean prediction over mean label


def without_labels(num_samples: int) -> EvaluationResult:
    """What can be said of predictions for samples without labels."""
    return EvaluationResult(num_samples, None, None, None, None)


def evaluate_predictions(logits: Float32Array, labels: Float32Array) -> EvaluationResult:
    """Metrics of logits and labels, float32 (n,); AUC is exact."""
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
    """The chance that a positive sample has the larger logit than a negative one; a tie counts half."""
    positive, negative = np.sort(positive), np.sort(negative)
    num_below = int(np.searchsorted(negative, positive, "left").sum())
    num_up_to = int(np.searchsorted(negative, positive, "right").sum())
    return (num_below + num_up_to) / (2 * len(positive) * len(negative))


def _log_sigmoid(logits: Float64Array) -> Float64Array:
    return np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))


def require_new_output(path: Path) -> None:
    """See, before any work, that predictions can be written to a new NumPy file; a device is taken as it is.

    Raises:
        BagpipeError: says what is wrong with the path, and what mends it.
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
        problem = "is to be a NumPy file; let the name of --output end with .npy"
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
    """Click probabilities as a NumPy file, float32 (n,).

    Raises:
        BagpipeError: it cannot be written.
    """
    content = io.BytesIO()  # written at once: NumPy does not tell why a file cannot be written
    np.save(content, np.exp(_log_sigmoid(logits.astype(np.float64))).astype(np.float32))
    try:
        with path.open("wb", buffering=0) as file:
            view = content.getbuffer()
            while view:
                view = view[file.write(view) or 0 :]
    except OSError as error:
        if path.is_file():  # and no device
            with suppress(OSError):
                path.unlink()  # half of them is worse than none
        raise BagpipeError(
            f"{path} cannot be written: {error.strerror}; free space or choose another --output"
        ) from None
