"""Metrics of the quality of predictions, and the file of predictions."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.data.schema import LabelSchema, Schema
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.oracle.ranking import auc, grouped_metrics, weighted_auc

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

METRIC_NAMES = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "calibration": "calibration",
    "mse": "mean squared error",
    "grouped_auc": "grouped AUC",
    "hit_rate": "hit rate",
    "ndcg": "NDCG",
}
_ALWAYS = ("auc", "log_loss", "normalised_entropy", "calibration")


@dataclass(frozen=True)
class Targets:
    """What predictions are compared with.

    Args:
        labels: float32, shape (n,) or (n, num_labels); nan: missing.
        weights: float32, shape (n,); None: all samples count the same.
        groups: int64, shape (n,); None: there are no groups.
    """

    labels: Float32Array
    weights: Float32Array | None = None
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class LabelMetrics:
    """The metrics of the predictions of one label, over the samples that have it.

    If samples have weights, all metrics but hit_rate and ndcg are weighted with them.

    All metrics of a binary label but log_loss are None if all labels are equal or a prediction is not finite; all of
    them are None if no sample has the label.

    Args:
        auc: The area under the ROC curve.
        log_loss: The mean binary cross-entropy.
        normalised_entropy: log_loss, divided by the log loss of always predicting the mean label (He et al. 2014).
        calibration: The mean prediction, divided by the mean label.
        mse: The mean squared error of a real-valued label; None for a binary one.
        grouped_auc, hit_rate, ndcg: See GroupedMetrics; None if samples have no groups.
    """

    auc: float | None = None
    log_loss: float | None = None
    normalised_entropy: float | None = None
    calibration: float | None = None
    mse: float | None = None
    grouped_auc: float | None = None
    hit_rate: float | None = None
    ndcg: float | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of a whole split.

    Args:
        num_samples: The number of samples.
        judged: The metrics of the label that evaluations are compared by. All are None if samples have no labels.
        labels: If there are several labels, the metrics of each of them, by its name.
    """

    num_samples: int
    judged: LabelMetrics = LabelMetrics()
    labels: Mapping[str, LabelMetrics] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values. Metrics that only some data sets have are left out where they are None."""
        labels = {"labels": {name: _fields_of(metrics) for name, metrics in self.labels.items()}} if self.labels else {}
        return {"num_samples": self.num_samples, **_fields_of(self.judged), **labels}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EvaluationResult:
        """Return the result that `to_json` has described.

        Raises:
            TypeError: a field is unknown or no number.
            ValueError: the number of samples is no count.
        """
        rest = dict(fields)
        num_samples, labels = rest.pop("num_samples", None), rest.pop("labels", {})
        if type(num_samples) is not int or num_samples < 0:
            raise ValueError("num_samples of an evaluation must be a count")
        if not isinstance(labels, dict):
            raise TypeError("labels of an evaluation must be metrics by name")
        return cls(num_samples, _metrics_in(rest), {name: _metrics_in(each) for name, each in labels.items()})


def in_words(metrics: Mapping[str, float | None]) -> str:
    """Return the metrics that there are, by name, for the user."""
    return ", ".join(f"{METRIC_NAMES[name]} {value:.4f}" for name, value in metrics.items() if value is not None)


def _fields_of(metrics: LabelMetrics) -> dict[str, float | None]:
    values: dict[str, float | None] = vars(metrics)
    return {name: value for name, value in values.items() if value is not None or name in _ALWAYS}


def _metrics_in(fields: Any) -> LabelMetrics:
    if not isinstance(fields, dict) or any(
        value is not None and type(value) not in (int, float) for value in fields.values()
    ):
        raise TypeError("metrics of an evaluation must be numbers or null")
    return LabelMetrics(**fields)


def evaluate_predictions(
    logits: Float32Array,
    targets: Targets,
    schema: Schema,
    *,
    judged: str | None = None,
    top_k: int = 10,
) -> EvaluationResult:
    """Return the metrics of predictions.

    Args:
        logits: Of the shape of the labels.
        targets: The labels, weights and groups of the samples.
        schema: What the labels are.
        judged: The label that evaluations are compared by; None: the first one.
        top_k: How many samples of a group count for the hit rate and the NDCG.
    """
    num_samples = len(logits)
    if not schema.labelled:
        return EvaluationResult(num_samples)
    columns = zip(np.atleast_2d(logits.T), np.atleast_2d(targets.labels.T), schema.labels, strict=True)
    metrics = {
        label.name: _metrics_of(each_logits, each_labels, label, targets, top_k)
        for each_logits, each_labels, label in columns
    }
    first = judged or schema.labels[0].name
    in_order = {first: metrics[first], **metrics}
    return EvaluationResult(num_samples, metrics[first], in_order if len(metrics) > 1 else {})


def _metrics_of(
    logits: Float32Array, labels: Float32Array, label: LabelSchema, targets: Targets, top_k: int
) -> LabelMetrics:
    weights, groups = targets.weights, targets.groups
    if label.optional:
        there = ~np.isnan(labels)
        logits, labels = logits[there], labels[there]
        weights = None if weights is None else weights[there]
        groups = None if groups is None else groups[there]
    if not len(labels) or (weights is not None and not weights.any()):
        return LabelMetrics()
    if label.kind == "real":
        return LabelMetrics(mse=_mean((logits.astype(np.float64) - labels) ** 2, weights))
    metrics = binary_metrics(logits, labels, weights)
    if groups is None or not np.isfinite(logits).all():
        return metrics
    grouped = grouped_metrics(logits, labels, groups, top_k, weights)
    return replace(metrics, grouped_auc=grouped.grouped_auc, hit_rate=grouped.hit_rate, ndcg=grouped.ndcg)


def binary_metrics(logits: Float32Array, labels: Float32Array, weights: Float32Array | None = None) -> LabelMetrics:
    """Return the metrics of predictions of a binary label, without those of groups. The AUC is exact.

    Args:
        logits: float32, shape (n,), n at least 1.
        labels: 0 or 1, float32, shape (n,).
        weights: Not negative, not all 0, float32, shape (n,); None: all samples count the same.
    """
    exact = logits.astype(np.float64)
    log_predicted = _log_sigmoid(exact)
    log_loss = _mean(exact - exact * labels - log_predicted, weights)
    mean_label = _mean(labels.astype(np.float64), weights)
    if not 0 < mean_label < 1 or not np.isfinite(logits).all():
        return LabelMetrics(log_loss=log_loss)
    entropy = -(mean_label * math.log(mean_label) + (1 - mean_label) * math.log(1 - mean_label))
    return LabelMetrics(
        auc=auc(logits, labels) if weights is None else weighted_auc(logits, labels, weights),
        log_loss=log_loss,
        normalised_entropy=log_loss / entropy,
        calibration=_mean(np.exp(log_predicted), weights) / mean_label,
    )


def _mean(values: Float64Array, weights: Float32Array | None) -> float:
    return float(values.mean() if weights is None else np.average(values, weights=weights.astype(np.float64)))


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


def columns_in_words(schema: Schema) -> str:
    """Return what each row of a file of predictions holds."""
    columns = [f"{'probability' if each.kind == 'binary' else 'value'} of {each.name}" for each in schema.labels]
    return columns[0] if len(columns) == 1 else f"columns: {', '.join(columns)}"


def save_predictions(path: Path, logits: Float32Array, schema: Schema) -> None:
    """Write predictions into a NumPy file, float32, of the shape of the labels.

    That of a binary label is the probability that the label is 1, and that of a real-valued one is the logit itself.

    Args:
        path: The file, or a device.
        logits: float32, of the shape of the labels.
        schema: What the labels are.
    Raises:
        BagpipeError: the file cannot be written.
    """
    content = io.BytesIO()  # NumPy's own errors do not say why a file cannot be written
    is_binary = np.array([label.kind == "binary" for label in schema.labels]).reshape(schema.label_shape)
    probabilities = np.exp(_log_sigmoid(logits.astype(np.float64))).astype(np.float32)
    np.save(content, np.where(is_binary, probabilities, logits))
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
