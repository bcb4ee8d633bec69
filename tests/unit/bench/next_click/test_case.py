"""What `bench next-click` accepts, and its table."""

from __future__ import annotations

import pytest
from rich.console import Console

from bagpipe_hpc.bench.next_click.case import Comparison, NextClickCase, Quality
from bagpipe_hpc.bench.next_click.figures import comparison_table
from bagpipe_hpc.errors import ConfigError


def test_settings_are_checked() -> None:
    assert NextClickCase(("mean", "hstu"), overrides=("training.epochs=2",)).settings("mean")[-1] == "training.epochs=2"
    with pytest.raises(ConfigError, match="--models has 'bst'; the models are mean, din, sasrec, hstu"):
        NextClickCase(("bst",))
    with pytest.raises(ConfigError, match="--models is empty"):
        NextClickCase(())
    with pytest.raises(ConfigError, match="--negatives is 0, but must be at least 1"):
        NextClickCase(("din",), num_negatives=0)
    with pytest.raises(ConfigError, match="keep these"):
        NextClickCase(("din",), overrides=("row_optimizer.name=sgd",))


def test_table() -> None:
    comparison = Comparison("din", Quality(0.7, 0.6, 0.5, 0.4, 30.0, 99), Quality(0.7012, 0.6, 0.5, 0.4, 20.0, 99))
    console = Console(width=80, record=True)
    console.print(comparison_table([comparison], "next click", ("bagpipe_hpc", "PyTorch")))
    text = console.export_text()
    assert "0.7000" in text
    assert "0.7012" in text
