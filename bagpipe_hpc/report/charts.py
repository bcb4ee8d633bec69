"""The charts of a report. One run has more of them than several runs together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bagpipe_hpc.report import contrasts, curves, details
from bagpipe_hpc.report.encodings import Picture
from bagpipe_hpc.report.figures import RunFigures

Maker = Callable[[Sequence[RunFigures]], Picture | None]

_OF_ONE: tuple[Maker, ...] = (
    curves.loss, curves.metrics, curves.speed, details.causes, details.overlapped, details.moves, details.cache,
    details.paths, details.balance, details.memory, details.checkpoints,
)  # fmt: skip
_OF_SEVERAL: tuple[Maker, ...] = (
    curves.loss, curves.metrics, curves.speed, contrasts.causes, contrasts.moves, contrasts.paths, contrasts.memory,
)  # fmt: skip


def pictures_of(runs: Sequence[RunFigures]) -> list[Picture]:
    """Return the charts of one run, or those that compare several runs. Charts without values are left out.

    Args:
        runs: The figures of each run, at least one.
    """
    makers = _OF_ONE if len(runs) == 1 else _OF_SEVERAL
    return [picture for maker in makers if (picture := maker(runs)) is not None]
