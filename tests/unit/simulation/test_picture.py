"""Pictures are drawn for the figures that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.figures import ApproximateFigures, Figures, PolicyFigures, SystemFigures
from bagpipe_hpc.simulation.picture import draw_figures


def system(design: str, trainers: int, network: str) -> SystemFigures:
    return SystemFigures(design, trainers, network, 64, 5, 0.5, 3, 3, 0, 0.4, 10, 5, 1, 0.9, 1.5, 4, 2, None)


FIGURES = Figures(
    stream={},
    policies=[
        PolicyFigures("lookahead", 10, 0.1, 100, 50, 0.5, 5),
        PolicyFigures("lru-model", 10, 0.1, 100, 5, 0.1, 9),
    ],
    systems=[
        system(d, t, n) for d in ("lookahead", "staleness-1") for t in (1, 4) for n in ("1Gbit", "2Gbit", "4Gbit")
    ],
    approximate=[
        ApproximateFigures(c, 10, 0.1, b, 0.5, 0.1, 0.1, 0.5, 0.1, 0.1) for c in ("lru", "ideal") for b in (0, 2)
    ],
    notes=[],
)


def test_all_pictures_and_tables(tmp_path: Path) -> None:
    names = [path.name for path in draw_figures(FIGURES, tmp_path)]
    assert names == ["policies.png", "systems.png", "efficiency.png", "staleness.png", "approximate.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert draw_figures(Figures({}, [], [], [], []), tmp_path) == []
    with pytest.raises(ConfigError, match=r"none/policies.png cannot be written: No such file.*--output"):
        draw_figures(FIGURES, tmp_path / "none")
