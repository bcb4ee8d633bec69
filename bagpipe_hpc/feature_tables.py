"""Which feature of a sample belongs to which embedding table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureTables:
    """The features of a sample and their tables.

    Features have numbers in the order of the schema. A feature is one-hot (one row id per sample) or ragged (any number
    of row ids per sample). Several features may share a table.

    Args:
        tables: Number of each feature's table.
        ragged: Numbers of the ragged features, ascending. The others are the columns of a batch's ids, in this order.
    """

    tables: tuple[int, ...]
    ragged: tuple[int, ...] = ()

    @property
    def one_hot(self) -> tuple[int, ...]:
        """Numbers of the one-hot features, ascending."""
        return tuple(feature for feature in range(len(self.tables)) if feature not in self.ragged)

    @property
    def in_table_order(self) -> tuple[int, ...]:
        """Numbers of all features, table by table, within a table ascending."""
        return tuple(sorted(range(len(self.tables)), key=lambda feature: self.tables[feature]))


def one_id_per_table(num_tables: int) -> FeatureTables:
    """Return one one-hot feature for each table."""
    return FeatureTables(tuple(range(num_tables)))
