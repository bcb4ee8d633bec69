"""Malformed lines: they are counted, the first ones are kept for the report, and too many end the import."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue

from bagpipe_hpc.data.importing.ranks import Ranks, allgather_json
from bagpipe_hpc.errors import DatasetError

NUM_SHOWN = 5


@dataclass
class BadLines:
    """Malformed lines of one pass of one rank.

    Args:
        limit: How many lines the import may skip, on all ranks together.
        stop: Another rank counts the lines from here on.
    """

    limit: int
    stop: int
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, fault: str) -> None:
        """Skip a line. Lines are numbered over all files; `fault` names file, line, column and reason.

        Raises:
            DatasetError: There are more bad lines than allowed.
        """
        if line >= self.stop:
            return
        self.count += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(fault)
        if self.count > self.limit:
            raise DatasetError(_too_many(self.limit, self.shown))


def report_bad_lines(ranks: Ranks, bad: BadLines) -> dict[str, JsonValue]:
    """Return the number of bad lines of all ranks, and the first ones. Communication: collective.

    Raises:
        DatasetError: On rank 0, if all ranks together have skipped too many lines.
    """
    reports = allgather_json(ranks, {"count": bad.count, "first": list(bad.shown)})
    count = sum(report["count"] for report in reports)
    shown = [fault for report in reports for fault in report["first"]][:NUM_SHOWN]
    if count > bad.limit and ranks.rank == 0:
        raise DatasetError(_too_many(bad.limit, shown))
    return {"count": count, "first": shown}


def _too_many(limit: int, shown: list[str]) -> str:
    if limit == 0:
        return f"{shown[0]}; correct the line, or remove it, or skip such lines with --max-bad-lines"
    return (
        f"{shown[-1]}; more than the {limit} bad lines that --max-bad-lines allows: correct the file, or allow more. "
        f"The first: {shown[0]}"
    )
