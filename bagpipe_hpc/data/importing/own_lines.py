"""The lines that a rank makes samples of, and what it must know of earlier lines before it can do so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from bagpipe_hpc.data.dataset import Progress
from bagpipe_hpc.data.importing.bad_lines import BadLines
from bagpipe_hpc.data.importing.description import Category, CategoryList, TableDescription
from bagpipe_hpc.data.importing.features import Features
from bagpipe_hpc.data.importing.histories import Histories, OrderCheck
from bagpipe_hpc.data.importing.history_columns import HistoryColumns
from bagpipe_hpc.data.importing.inputs import Inputs, Rows
from bagpipe_hpc.data.importing.ranks import Ranks, share_of
from bagpipe_hpc.data.vocabulary import Encoder


class OwnLines:
    """The lines of one rank. Every pass over them is a method; they are called in the order in which they stand here.

    Args:
        inputs: All lines.
        description: What the columns hold.
        span: The first line of this rank, and the first one after its lines.
        max_bad_lines: Lines that a pass may skip.
        ranks: All ranks.
        progress: Called while lines are read.
    """

    def __init__(
        self,
        inputs: Inputs,
        description: TableDescription,
        span: tuple[int, int],
        max_bad_lines: int,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        columns = HistoryColumns(description, inputs.header)
        self._inputs, self._span, self._max_bad_lines = inputs, span, max_bad_lines
        self._ranks, self._progress = ranks, progress
        self._features = Features(description, inputs.header)
        self._check = OrderCheck.from_first_line(columns)
        self._histories = Histories.from_first_line(columns)
        self._kept = [each for each in description.categorical if each.feature_name in self._histories.features]

    def find_order(self) -> None:
        """Find out which lines of this rank are out of order because of lines of earlier ranks.

        Communication: collective.
        """
        if self._ranks.size > 1 and self._check.is_needed:
            for rows in self._read("checking the order", *self._span, ()):
                self._check.note(rows.table)
            self._check = self._check.before(self._ranks)

    def to_count(self, tables: Sequence[Category | CategoryList], num_counted: int) -> Iterator[Rows]:
        """Yield the lines of this rank in which values are counted, and perhaps later ones.

        If there are histories, this notes what the lines leave behind for lines of later ranks.

        Args:
            tables: Features whose values are counted.
            num_counted: The number of lines, of all ranks, whose values are counted.
        """
        if self._kept and self._ranks.size > 1:
            phase = "counting values" if tables else "noting histories"
            for rows in self._read(phase, *self._span, (), self._check.copy()):
                values = {each.feature_name: self._features.values(rows.table, each) for each in self._kept}
                self._histories.note(rows.table, values)
                yield rows
        elif tables:
            # Without histories, the lines to count need not be those that this rank makes samples of.
            share = share_of(num_counted, self._ranks)
            yield from self._read("counting values", *share, self._features.positions_of(tables), self._check.copy())

    def find_histories(self, encoders: Mapping[str, Encoder]) -> None:
        """Find out the histories before the first line of this rank.

        Args:
            encoders: Of each table, the mapping of values to row ids.
        Communication: collective.
        """
        if self._kept and self._ranks.size > 1:
            self._progress("exchanging histories", 0, 0)
            by_feature = {each.feature_name: encoders[each.table_name] for each in self._kept}
            self._histories = self._histories.before(self._ranks, by_feature)

    @property
    def check(self) -> OrderCheck | None:
        """The check of the order from the first line on; None: there is nothing to check."""
        return self._check if self._check.is_needed else None

    @property
    def histories(self) -> Histories | None:
        """The histories before the first line; None: there are none."""
        return self._histories if self._kept else None

    def _read(
        self, phase: str, start: int, stop: int, positions: Collection[int], check: OrderCheck | None = None
    ) -> Iterator[Rows]:
        bad = BadLines(self._max_bad_lines, stop)
        self._progress(phase, 0, stop - start)
        for rows in self._inputs.rows(start, stop, bad, positions, check):
            yield rows
            if len(rows.lines):
                self._progress(phase, int(rows.lines[-1]) + 1 - start, stop - start)
