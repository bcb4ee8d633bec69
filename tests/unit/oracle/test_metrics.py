"""Quality of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.oracle.metrics import binary_metrics, require_new_output


def test_against_the_definitions() -> None:
    random = np.random.default_rng(0)
    logits = np.round(random.normal(size=300), 1).astype(np.float32)  # with ties
    labels = (random.random(300) < 0.3).astype(np.float32)
    result = binary_metrics(logits, labels)
    positive, negative = logits[labels == 1][:, np.newaxis], logits[labels == 0]
    auc = np.mean((positive > negative) + 0.5 * (positive == negative))
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    log_loss = -np.mean(labels * np.log(chance) + (1 - labels) * np.log1p(-chance))
    assert result.auc == pytest.approx(auc, abs=1e-6)
    assert result.log_loss == pytest.approx(log_loss, rel=1e-5)
    share = labels.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert result.normalised_entropy == pytest.approx(log_loss / entropy, rel=1e-5)
    assert result.calibration == pytest.approx(chance.mean() / share, rel=1e-5)


def test_perfect_and_worst_order() -> None:
    labels = np.array([0, 0, 1], dtype=np.float32)
    logits = np.array([-1, 0, 1], dtype=np.float32)
    assert binary_metrics(logits, labels).auc == 1
    assert binary_metrics(-logits, labels).auc == 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc(label: float) -> None:
    result = binary_metrics(np.zeros(3, dtype=np.float32), np.full(3, label, dtype=np.float32))
    assert result.auc is None
    assert result.normalised_entropy is None
    assert result.calibration is None
    assert result.log_loss == pytest.approx(np.log(2))


def test_extreme_logits_stay_finite() -> None:
    result = binary_metrics(np.array([1e4, -1e4], np.float32), np.array([0, 1], np.float32))
    assert result.log_loss == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("directory.npy", "is a directory; name a file in it"),
        ("old.npy", "exists; choose another --output or remove it"),
        ("clicks.csv", r"will be a NumPy file, so its name must end with .npy; add .npy to --output"),
        (
            "absent/clicks.npy",
            r"cannot be written: there is no directory .*absent; make it, or choose another --output",
        ),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "directory.npy").mkdir()
    (tmp_path / "old.npy").write_bytes(b"")
    with pytest.raises(BagpipeError, match=problem):
        require_new_output(tmp_path / name)


def test_an_output_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_new_output(tmp_path / "clicks.npy")
    require_new_output(Path("/dev/null"))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(BagpipeError, match=r"the directory .* is not writable; mend its permissions"):
        require_new_output(tmp_path / "clicks.npy")
