"""What a sample is made of: dense features and embedding tables."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, field_validator, model_validator

from bagpipe_hpc.feature_tables import FeatureTables

T = TypeVar("T")

# Table names are also names of HDF5 groups: no slash, no leading dot.
NAME_PATTERN = r"^\w[\w.-]*$"
MAX_ROWS = 2**62  # of all tables together: keys are int64
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class TableSchema(BaseModel):
    """One embedding table and the feature that counts in it, or one more feature that counts in another's table.

    A feature is one-hot (one row id per sample) or ragged (any number of row ids per sample, maybe with weights).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    num_embeddings: PositiveInt  # at most MAX_ROWS, together with all other tables
    ragged: bool = False
    weighted: bool = False
    shares: Name | None = None  # the table whose rows are meant; None: rows of its own

    @model_validator(mode="after")
    def _weights_of_bags(self) -> TableSchema:
        if self.weighted and not self.ragged:
            raise ValueError(f"table {self.name} is weighted, so it must be ragged, too: one id has no weight")
        return self

    @property
    def kind(self) -> str:
        """What samples have of it, and whose rows that means, in words."""
        kind = ("weighted " if self.weighted else "") + ("ragged" if self.ragged else "one-hot")
        return f"{kind}, rows of {self.shares}" if self.shares else kind

    def __str__(self) -> str:
        return f"{self.name}: {self.num_embeddings} rows, {self.kind}"


class Schema(BaseModel):
    """Dense features and tables of every sample, in the order of the columns.

    Raises:
        pydantic.ValidationError: a name is malformed or used twice, or a table has no rows, or shares those of none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: tuple[Name, ...] = ()
    tables: tuple[TableSchema, ...] = Field(min_length=1)
    labelled: bool = True  # whether samples have labels; those that do not are for predictions only

    @field_validator("dense")
    @classmethod
    def _distinct_dense(cls, dense: tuple[str, ...]) -> tuple[str, ...]:
        return _require_distinct(dense, dense)

    @field_validator("tables")
    @classmethod
    def _distinct_tables(cls, tables: tuple[TableSchema, ...]) -> tuple[TableSchema, ...]:
        own = {table.name: table.num_embeddings for table in tables if table.shares is None}
        if sum(own.values()) > MAX_ROWS:
            raise ValueError(f"tables have {sum(own.values())} rows together, but at most 2^62 are possible")
        for table in tables:
            if table.shares is not None and own.get(table.shares) != table.num_embeddings:
                raise ValueError(
                    f"table {table.name} has {table.num_embeddings} rows of {table.shares}, but tables with rows of "
                    f"their own are {', '.join(f'{name} ({rows} rows)' for name, rows in own.items()) or 'none'}"
                )
        return _require_distinct(tables, tuple(table.name for table in tables))

    @property
    def num_dense(self) -> int:
        """Dense features of a sample."""
        return len(self.dense)

    @property
    def num_tables(self) -> int:
        """Features with embeddings, one-hot and ragged: vectors of a sample."""
        return len(self.tables)

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table that has its own, in table order."""
        return tuple(table.num_embeddings for table in self.own_tables)

    @property
    def own_tables(self) -> tuple[TableSchema, ...]:
        """Tables with rows of their own."""
        return tuple(table for table in self.tables if table.shares is None)

    @property
    def features(self) -> FeatureTables:
        """Which feature counts in which of the tables with rows of their own."""
        places = {table.name: place for place, table in enumerate(self.own_tables)}
        return FeatureTables(
            tuple(places[table.shares or table.name] for table in self.tables),
            tuple(place for place, table in enumerate(self.tables) if table.ragged),
        )

    @property
    def one_hot_tables(self) -> tuple[TableSchema, ...]:
        """Tables with one row id per sample: the columns of `Batch.ids`."""
        return tuple(table for table in self.tables if not table.ragged)

    @property
    def ragged_tables(self) -> tuple[TableSchema, ...]:
        """Tables with any number of row ids per sample: the keys of `Batch.bags`."""
        return tuple(table for table in self.tables if table.ragged)

    @property
    def is_plain(self) -> bool:
        """Whether a sample has one row id in each table."""
        return not self.ragged_tables and len(self.own_tables) == len(self.tables)

    def difference(self, other: Schema) -> str:
        """The first of the features in which another schema differs, for a message; empty if none does."""
        if self.dense != other.dense:
            return f"dense features {list(self.dense)} against {list(other.dense)}"
        if self.num_tables != other.num_tables:
            return f"{self.num_tables} tables against {other.num_tables}"
        for mine, others in zip(self.tables, other.tables, strict=True):
            if mine != others:
                return f"table ({mine}) against ({others})"
        return ""


def _require_distinct(value: T, names: tuple[str, ...]) -> T:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"every name may be used once, but these are used more often: {', '.join(twice)}")
    return value
