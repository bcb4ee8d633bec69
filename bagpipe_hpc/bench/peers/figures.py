"""The figures of `bagpipe bench peers`: ratios, spreads, the table, and tables of several runs side by side. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.bench.peers.case import PeersCase
from bagpipe_hpc.bench.peers.systems import SYSTEMS, Crew, System
from bagpipe_hpc.bench.peers.turn import Turn

OWN_EXACT = tuple(system.name for system in SYSTEMS if system.crew is Crew.RANKS and system.is_exact)
# Sums over samples, features and trainers have another order in each system. Their float32 rounding, 6e-8 of a number,
# grows from iteration to iteration; measured differences are below 1e-6 after ten and 3e-4 after 170.
EXACT_TOLERANCE = 1e-3

Cell = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median of some repeats, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], to: Sequence[float]) -> Spread:
    """Return the spread of the ratios within each repeat: values[r] / to[r]."""
    return Spread.of([value / other for value, other in zip(values, to, strict=True)])


@dataclass(frozen=True)
class PeersFigures:
    """What all repeats have measured.

    Args:
        case: What was trained.
        systems: The systems, in the order of the table.
        turns: By name of the system, one run per repeat.
        failed: By name of the system, why it does not run here.
        num_hosts: The number of hosts of all ranks.
    """

    case: PeersCase
    systems: tuple[System, ...]
    turns: Mapping[str, list[Turn]]
    failed: Mapping[str, str]
    num_hosts: int

    def to_json(self) -> Cell:
        """Return all figures: the content of the file of one run."""
        return {
            "case": self.case.to_json(),
            "trainers": self.case.num_trainers,
            "hosts": self.num_hosts,
            "systems": [system.name for system in self.systems],
            "turns": {name: [asdict(turn) for turn in turns] for name, turns in self.turns.items() if turns},
            "failed": dict(self.failed),
        }


def rates(cell: Cell, name: str) -> list[float]:
    """Return samples/s of a system in each repeat of a cell; empty: it did not run."""
    return [float(turn["samples_per_second"]) for turn in cell["turns"].get(name, [])]


def best_own(cell: Cell) -> str | None:
    """Return the fastest exact variant of bagpipe_hpc, by its median; None: the cell has none."""
    ran = [name for name in OWN_EXACT if rates(cell, name)]
    return max(ran, key=lambda name: statistics.median(rates(cell, name)), default=None)


def different_losses(cell: Cell) -> list[str]:
    """Return the exact systems whose loss differs from that of the first exact system by more than rounding."""
    exact = {system.name for system in SYSTEMS if system.is_exact}
    losses = {name: float(turns[-1]["loss"]) for name, turns in cell["turns"].items() if name in exact}
    first = next(iter(losses.values()), 0.0)
    return [name for name, loss in losses.items() if not abs(loss - first) <= EXACT_TOLERANCE * abs(first)]


def cells_table(cells: Mapping[str, Cell]) -> Table:
    """Return one table of several runs.

    Args:
        cells: The figures by the title of the run, such as "T = 2, 200 Mbit/s"; one run without a title.
    """
    table = compact_table("", "system", ("k samples/s", "ratio", "MB", "GB", "others", "loss"))
    for title, cell in cells.items():
        if title:
            table.add_section()
            table.add_row(title, style="bold")
        for name in cell["systems"]:
            table.add_row(_title(name), *_row(cell, name))
    return table


def _row(cell: Cell, name: str) -> list[str]:
    """Return the columns of a system after its title."""
    if name in cell["failed"]:
        return [f"- ({_short(cell['failed'][name])})"]
    turns, speeds, best = cell["turns"].get(name, []), rates(cell, name), best_own(cell)
    if not turns:
        return []
    speed = Spread.of(speeds)
    ratio = ratios(speeds, rates(cell, best)) if best else None
    sent = [turn["bytes_sent"] for turn in turns]
    others = max(turn["other_bytes"] for turn in turns)
    return [
        f"{speed.median / 1e3:.1f} ({speed.low / 1e3:.1f}-{speed.high / 1e3:.1f})",
        f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else "",
        "-" if sent[0] is None else f"{statistics.median(sent) / 1e6:.2f}",
        f"{max(turn['trainer_bytes'] for turn in turns) / 1e9:.2f}",
        f"{others / 1e9:.2f}" if others else "-",
        f"{turns[-1]['loss']:.5f}",
    ]


def explanation(cells: Mapping[str, Cell]) -> str:
    """Return what the columns of `cells_table` mean."""
    repeats = max(cell["case"]["repeats"] for cell in cells.values())
    text = (
        f"k samples/s: median (lowest-highest) of {repeats} repeat(s). ratio: the speed divided by that of the fastest "
        "exact bagpipe_hpc in the same repeat. MB: sent by all hosts, per iteration and trainer. GB: memory of the "
        "largest trainer process. others: GB of the oracle and all servers together. loss: after the timed iterations."
    )
    if any(cell["hosts"] == 1 for cell in cells.values()):
        text += " On one host nothing is sent over a network, so MB is -."
    if any(best_own(cell) is None for cell in cells.values()):
        text += " Without an exact bagpipe_hpc there is no ratio."
    return text


def failures(cells: Mapping[str, Cell]) -> list[str]:
    """Return a line for each reason why systems did not run, with their names."""
    titles: dict[str, dict[str, None]] = {}
    for title, cell in cells.items():
        for name, reason in cell["failed"].items():
            titles.setdefault(reason, {})[_title(name) + (f" ({title})" if title else "")] = None
    return [f"{', '.join(names)}: {reason}" for reason, names in titles.items()]


def _short(reason: str) -> str:
    return "not installed" if "not installed" in reason else "does not run"


def _title(name: str) -> str:
    return next((system.title for system in SYSTEMS if system.name == name), name)
