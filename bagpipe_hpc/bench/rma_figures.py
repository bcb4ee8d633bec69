"""The results of the RMA benchmark: rates, and each transport compared with the slower half of a staged transfer. Pure.

A staged transfer consists of two halves that overlap: the server's access to random rows (gather, scatter) and one
contiguous transfer (Get, Put). It can be no faster than the slower half. The halves are measured alone, before and
after the whole, so noise can lift a ratio above 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from bagpipe_hpc.bench.rma_traffic import Direction, RmaTraffic

Rates = dict[str, float]  # name of what was measured -> rows per second, all trainers together

COPY, SERVER, CONTIGUOUS, BOUND = "memcpy", "server", "contiguous", "bound"
BASELINES = {
    COPY: "memcpy at the trainers",
    SERVER: "random rows at the servers (gather, scatter)",
    CONTIGUOUS: "contiguous MPI_Get, MPI_Put",
    BOUND: "the slower half: the lower of the last two",
}


@dataclass(frozen=True)
class Surroundings:
    """The conditions, besides the options, that influence the figures."""

    command: str
    mpi_library: str
    hosts: tuple[str, ...]  # in order of rank

    def __str__(self) -> str:
        return f"{self.mpi_library}; {len(self.hosts)} ranks on {len({*self.hosts})} host(s); {self.command}"


@dataclass(frozen=True)
class RmaFigures:
    """The rates of every round.

    Args:
        rounds: Rows per second, for each direction and each name; transports have their own names.
    """

    traffic: RmaTraffic
    surroundings: Surroundings
    rounds: Sequence[dict[Direction, Rates]]

    def rate(self, direction: Direction, name: str) -> float:
        """Return the median of rows per second over all rounds."""
        return median(with_bound(rates[direction])[name] for rates in self.rounds)

    def share_of_bound(self, direction: Direction, name: str) -> float:
        """Return the median over rounds of the ratio to the bound of the same round."""
        return median(rates[direction][name] / with_bound(rates[direction])[BOUND] for rates in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Return all figures, medians and single rounds, as JSON values."""
        names = (*BASELINES, *self.traffic.transports)
        medians = {
            direction: {
                name: {
                    "rows_per_second": self.rate(direction, name),
                    "gigabytes_per_second": self._gigabytes(self.rate(direction, name)),
                }
                for name in names
            }
            for direction in Direction
        }
        for direction in Direction:
            for name in self.traffic.transports:
                medians[direction][name]["share_of_bound"] = self.share_of_bound(direction, name)
        return {
            **asdict(self.surroundings),
            "options": asdict(self.traffic),
            "median": medians,
            "rounds_rows_per_second": list(self.rounds),
        }

    def table(self) -> Table:
        """Return the table to print."""
        heads = [f"{direction.replace('_', '-')}\n{unit}" for direction in Direction for unit in _UNITS]
        traffic = self.traffic
        where = "" if traffic.device == "cpu" else f", on device {traffic.device}"
        title = f"{traffic.rows} rows of {traffic.row_bytes} bytes per trainer and iteration{where}"
        note = "the halves are measured alone, so noise can lift a share above 100 %"
        table = Table("", title=title, caption=f"{self.surroundings}\n{note}", caption_justify="left")
        for head in heads:
            table.add_column(head, justify="right")
        for name, label in BASELINES.items():
            table.add_row(label, *self._cells(name), end_section=name == BOUND)
        for transport in traffic.transports:
            table.add_row(transport, *self._cells(transport))
        return table

    def _cells(self, name: str) -> list[str]:
        cells = []
        for direction in Direction:
            rate = self.rate(direction, name)
            share = "" if name in BASELINES else f"{self.share_of_bound(direction, name):.0%}"
            cells += [f"{rate / 1e6:.2f}", f"{self._gigabytes(rate):.2f}", share]
        return cells

    def _gigabytes(self, rows: float) -> float:
        return rows * self.traffic.row_bytes / 1e9


_UNITS = ("M rows/s", "GB/s", "of slower half")


def with_bound(rates: Rates) -> Rates:
    """Return the rates together with that of the slower half of a staged transfer."""
    return rates | {BOUND: min(rates[SERVER], rates[CONTIGUOUS])}
