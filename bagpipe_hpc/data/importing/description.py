"""What the columns of a table are: label, dense features, categories, lists of categories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from bagpipe_hpc.config import read_yaml
from bagpipe_hpc.data.schema import NAME_PATTERN, Schema, TableSchema
from bagpipe_hpc.data.shard import first_fault
from bagpipe_hpc.errors import ConfigError, DatasetError

Kind = Literal["binary", "rating", "number", "integer", "hexadecimal", "text"]
"""What every field of a column must be; `rating` is a number that may not be missing."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Column(_Part):
    """A column alone, where only that is given."""

    column: str | PositiveInt = Field(description="Name in the header, or number from 1 on.")

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str | int) else given


class _Feature(_Column):
    name: str | None = Field(None, description="Name in the data set; null: the column's.")

    @property
    def feature_name(self) -> str:
        """Name in the data set."""
        return self.name or str(self.column)

    @model_validator(mode="after")
    def _fitting_name(self) -> _Feature:
        if not re.fullmatch(NAME_PATTERN, self.feature_name):
            raise ValueError(
                f"{self.feature_name!r} cannot be a name in the data set, which takes letters, digits, _, - and .; "
                "give the column a name"
            )
        return self


class Label(_Column):
    threshold: float | None = Field(
        None, allow_inf_nan=False, description="1 where the column is at least this; null: the column is 0 or 1."
    )
    continues: bool = Field(False, description="1 where the next line has the same value, 0 at the last of a run.")

    @model_validator(mode="after")
    def _one_rule(self) -> Label:
        if self.continues and self.threshold is not None:
            raise ValueError("threshold and continues are two rules for one label; give one of them")
        return self

    @property
    def kind(self) -> Kind:
        """What the column's fields must be."""
        return "text" if self.continues else "binary" if self.threshold is None else "rating"


class DenseFeature(_Feature):
    type: Literal["number", "integer"] = Field("number", description="What the fields must be, where not missing.")
    transform: Literal["log"] | None = Field(None, description="log: log(1 + max(x, 0)).")


class _Values(_Feature):
    min_count: int | None = Field(
        None, ge=1, description="Values seen less often in the training part share row 0; null: the command's."
    )
    hash_rows: int | None = Field(
        None, ge=2, description="Hash values onto this many rows instead of counting them; null: the command's."
    )

    shares: str | None = Field(None, description="Name of the table whose rows the values have; null: their own.")

    @property
    def table_name(self) -> str:
        """Name of the table whose rows the values have."""
        return self.shares or self.feature_name

    @model_validator(mode="after")
    def _one_way(self) -> _Values:
        if self.shares is not None and (self.min_count or self.hash_rows):
            raise ValueError(f"min_count and hash_rows are those of {self.shares}; give them there")
        if self.min_count is not None and self.hash_rows is not None:
            raise ValueError("hashing counts nothing; give min_count or hash_rows, not both")
        return self


class Category(_Values):
    type: Literal["text", "hexadecimal"] = Field(
        "text", description="hexadecimal: at most 8 digits, told apart as numbers."
    )


class CategoryList(_Values):
    separator: str = Field("|", min_length=1, max_length=1, description="Between the values of a text field.")

    @property
    def type(self) -> Literal["text"]:
        """What its values are."""
        return "text"


class TableDescription(_Part):
    """Label, features and tables of a data set, by the columns they come from.

    Raises:
        pydantic.ValidationError: unknown or contradicting settings, malformed or repeated names.
    """

    label: Label
    dense: tuple[DenseFeature, ...] = Field((), description="Numbers; missing ones become 0.")
    categorical: tuple[Category, ...] = Field((), description="A table of embeddings each, one row per sample.")
    lists: tuple[CategoryList, ...] = Field((), description="A ragged table each: any number of rows per sample.")
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="Text: names of all columns, where files have no header; null: they have one."
    )
    delimiter: str = Field(",", description="Text: the one character between columns.")
    quoting: bool = Field(True, description='Text: a field may be in double quotes, and "" in it is one.')
    missing: tuple[str, ...] = Field((), description="Text: what says that a value is missing, besides nothing.")

    @field_validator("delimiter")
    @classmethod
    def _plain_delimiter(cls, delimiter: str) -> str:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '\r\n"\0':
            raise ValueError(r'must be one ASCII character, no quote and no line end, such as "," or "\t"')
        return delimiter

    @model_validator(mode="after")
    def _sound_names(self) -> TableDescription:
        types = {table.feature_name: _type_of(table) for table in self.tables}
        for table in self.tables:
            if types.get(table.table_name, _type_of(table)) != _type_of(table):
                raise ValueError(f"{table.feature_name} shares {table.shares}, so both must be text or hexadecimal")
        try:
            self.schema_of([1] * len(self.tables))
        except ValidationError as error:
            raise ValueError(
                f"this makes no data set ({first_fault(error)}); put at least one column under categorical or lists, "
                "and give columns that are used twice a name"
            ) from None
        return self

    @property
    def tables(self) -> tuple[Category | CategoryList, ...]:
        """What becomes a table of embeddings, in the order of the data set."""
        return (*self.categorical, *self.lists)

    def schema_of(self, num_embeddings: Sequence[int]) -> Schema:
        """The data set's schema, given the rows of each table."""
        return Schema(
            dense=tuple(feature.feature_name for feature in self.dense),
            tables=tuple(
                TableSchema(
                    name=table.feature_name,
                    num_embeddings=rows,
                    ragged=isinstance(table, CategoryList),
                    shares=table.shares,
                )
                for table, rows in zip(self.tables, num_embeddings, strict=True)
            ),
        )

    def kinds(self, header: Sequence[str]) -> dict[int, Kind]:
        """What the columns that are used hold, by position.

        Raises:
            DatasetError: a column is not there, is named twice, or is used as two kinds.
        """
        kinds: dict[int, Kind] = {}
        for column, kind in self._uses():
            position = position_of(column, header)
            if kinds.setdefault(position, kind) != kind:
                raise DatasetError(
                    f"column {header[position]!r} is used as {kinds[position]} and as {kind}; use it as one of them"
                )
        return kinds

    def single_columns(self) -> Iterator[tuple[str | int, Kind]]:
        """Columns with one value per row, and what it is."""
        if self.label is not None:
            yield self.label.column, self.label.kind
        yield from ((feature.column, feature.type) for feature in self.dense)
        yield from ((category.column, category.type) for category in self.categorical)

    def _uses(self) -> Iterator[tuple[str | int, Kind]]:
        yield from self.single_columns()
        yield from ((category_list.column, "text") for category_list in self.lists)


def _type_of(table: Category | CategoryList) -> Kind:
    return table.type if isinstance(table, Category) else "text"


def position_of(column: str | int, header: Sequence[str]) -> int:
    """Position, from 0 on, of a column given by name or number.

    Raises:
        DatasetError: it is not there, or several have that name.
    """
    if isinstance(column, int) and column <= len(header):
        return column - 1
    if header.count(str(column)) == 1 and isinstance(column, str):
        return header.index(column)
    fault = "is there more than once: give its number" if column in header else "is not there"
    raise DatasetError(f"column {column!r} {fault}; columns: {', '.join(header)}")


def load_description(path: Path) -> TableDescription:
    """Read a description from a YAML file.

    Raises:
        ConfigError: names file, place, reason.
    """
    try:
        return TableDescription.model_validate(read_yaml(path, "schema"))
    except ValidationError as error:
        raise ConfigError(f"schema {path}: {first_fault(error)}; docs/data.md describes all settings") from None
