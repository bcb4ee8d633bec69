"""Models reach what plain PyTorch reaches; the whole table is `python -m tests.integration.convergence`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.convergence import CLICKS, MODELS, compare, import_clicks
from tests.parts import real_clicks

ITERATIONS = 120


def test_models_reach_the_auc_of_plain_pytorch(tmp_path: Path) -> None:
    import_clicks(real_clicks(CLICKS.name), tmp_path / "data")
    for each in compare(tmp_path / "data", tmp_path, MODELS, [f"training.iterations={ITERATIONS}"]):
        assert each.plain.auc > 0.7, each
        assert abs(each.auc_difference) < 0.003, each
        assert each.ours.log_loss == pytest.approx(each.plain.log_loss, abs=0.001), each
