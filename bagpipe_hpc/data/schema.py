"""What a sample is made of: dense features and embedding tables."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, field_validator

T = TypeVar("T")

# Table names are also names of HDF5 groups: no slash, no leading dot.
NAME_PATTERN = r"^\w[\w.-]*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class TableSchema(BaseModel):
    """One embedding table: one-hot (one row id per sample) or ragged (any number of row ids per sample)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    num_embeddings: PositiveInt
    ragged: bool = False


class Schema(BaseModel):
    """Dense features and tables of every sample, in the order of the columns.

    Raises:
        pydantic.ValidationError: a name is malformed or used twice, or a table has no rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: tuple[Name, ...] = ()
    tables: tuple[TableSchema, ...] = Field(min_length=1)

    @field_validator("dense")
    @classmethod
    def _distinct_dense(cls, dense: tuple[str, ...]) -> tuple[str, ...]:
        return _require_distinct(dense, dense)

    @field_validator("tables")
    @classmethod
    def _distinct_tables(cls, tables: tuple[TableSchema, ...]) -> tuple[TableSchema, ...]:
        return _require_distinct(tables, tuple(table.name for table in tables))

    @property
    def num_dense(self) -> int:
        """Dense features of a sample."""
        return len(self.dense)

    @property
    def num_tables(self) -> int:
        """Embedding tables, one-hot and ragged."""
        return len(self.tables)

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table, in table order."""
        return tuple(table.num_embeddings for table in self.tables)

    @property
    def one_hot_tables(self) -> tuple[TableSchema, ...]:
        """Tables with one row id per sample: the columns of `Batch.ids`."""
        return tuple(table for table in self.tables if not table.ragged)

    @property
    def ragged_tables(self) -> tuple[TableSchema, ...]:
        """Tables with any number of row ids per sample: the keys of `Batch.ragged`."""
        return tuple(table for table in self.tables if table.ragged)

    def difference(self, other: Schema) -> str:
        """The first thing in which another schema differs, for a message; empty if nothing does."""
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
