"""Description of a table's columns: labels, weight, group, dense features, categories, lists of categories."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bagpipe_hpc.data.schema import NAME_PATTERN, ElementSchema, LabelSchema, Schema, TableSchema
from bagpipe_hpc.data.vocabulary import MAX_HASH_ROWS, MAX_MIN_COUNT
from bagpipe_hpc.dynamic_rules import DynamicSchema, ValueType
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.fault_words import in_words

Kind = Literal[
    "binary",
    "optional_binary",
    "rating",
    "weight",
    "number",
    "integer",
    "hexadecimal",
    "text",
    "element",
    "time",
    "moment",
]
"""What each field of a column must be. `rating` and `weight` are numbers that must not be missing.

`element` and `time` are any text: sequences.py and times.py check it. `moment` is a number of a history, which may be a
timestamp in Parquet."""

NEVER_MISSING: tuple[Kind, ...] = ("binary", "rating", "weight")
TRUTHS: tuple[Kind, ...] = ("binary", "optional_binary")
NUMBERS: tuple[Kind, ...] = (*TRUTHS, "rating", "weight", "integer", "number", "moment")
KEYS: tuple[Kind, ...] = ("hexadecimal", "text")
MAX_HISTORY_LENGTH = 100_000


_MOST_LISTED = 100


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Part):
    """A column. It may be given alone, without the mapping."""

    column: str | PositiveInt = Field(description="Name in the header, or number counted from 1.")

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str | int | float) else given

    @field_validator("column", mode="before")
    @classmethod
    def _no_truth_value(cls, given: Any) -> Any:
        if isinstance(given, bool):  # pydantic would take it for column 1
            raise ValueError("YAML reads yes, no, on, off, true and false as booleans")
        return given


class _Feature(Column):
    name: str | None = Field(None, description="Name in the data set; null: the column's name.")

    @property
    def feature_name(self) -> str:
        """Name in the data set."""
        return self.name or str(self.column)

    @model_validator(mode="after")
    def _fitting_name(self) -> _Feature:
        if not re.fullmatch(NAME_PATTERN, self.feature_name):
            raise ValueError(
                f"{self.feature_name!r} cannot be a name in the data set, which has only letters, digits, _, - and .; "
                "give the column a name"
            )
        return self


class Label(Column):
    threshold: float | None = Field(
        None, allow_inf_nan=False, description="1 if the column is at least this; null: the column is 0 or 1."
    )
    continues: bool = Field(False, description="1 if the next line has the same value, 0 at the last line of a run.")

    @model_validator(mode="after")
    def _one_rule(self) -> Label:
        if self.continues and self.threshold is not None:
            raise ValueError("threshold and continues are two rules for one label; give one of them")
        return self

    @property
    def kind(self) -> Kind:
        """What the column's fields must be."""
        return "text" if self.continues else "binary" if self.threshold is None else "rating"


class NamedLabel(_Feature):
    threshold: float | None = Field(
        None, allow_inf_nan=False, description="1 if the column is at least this; null: the column is the label."
    )
    type: Literal["binary", "real"] = Field("binary", description="binary: 0 or 1. real: any number.")
    optional: bool = Field(False, description="Whether the label may be missing; otherwise a line without it is bad.")

    @model_validator(mode="after")
    def _thresholds_make_binary_labels(self) -> NamedLabel:
        if self.threshold is not None and self.type == "real":
            raise ValueError("a threshold makes labels of 0 and 1; remove it, or set type to binary")
        return self

    @property
    def kind(self) -> Kind:
        """What the column's fields must be."""
        if self.type == "real" or self.threshold is not None:
            return "number" if self.optional else "rating"
        return "optional_binary" if self.optional else "binary"

    @property
    def in_schema(self) -> LabelSchema:
        """The label in the schema of the data set."""
        return LabelSchema(name=self.feature_name, kind=self.type, optional=self.optional)


class Group(_Feature):
    pass


class Time(_Feature):
    format: str | None = Field(
        None,
        min_length=1,
        description="How the text of a time is written, as for strptime; the time is then in seconds since 1970. null: "
        "the column has integers.",
    )

    @field_validator("format")
    @classmethod
    def _says_the_whole_time(cls, given: str | None) -> str | None:
        if given is None:
            return None
        some = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
        try:
            year = datetime.strptime(some.strftime(given), given).year
        except ValueError as error:
            raise ValueError(f"is no format of Python's strptime ({error}); see its table of directives") from None
        if year != some.year:
            raise ValueError("has no year, so it says no time; add %Y or %y")
        if "%Z" in given.replace("%%", ""):
            raise ValueError("%Z does not say how far a time is from UTC; give the offset, with %z")
        return given


T = TypeVar("T", bound=_Feature)
C = TypeVar("C", bound=Column)


class DenseFeature(_Feature):
    type: Literal["number", "integer"] = Field("number", description="What fields must be, unless they are missing.")
    transform: Literal["log"] | None = Field(None, description="log: log(1 + max(x, 0)).")


class _Values(_Feature):
    min_count: int | None = Field(
        None,
        ge=1,
        le=MAX_MIN_COUNT,
        description="Values that occur less often in the training part share row 0; null: as the command says.",
    )
    hash_rows: int | None = Field(
        None,
        ge=2,
        le=MAX_HASH_ROWS,
        description="Hash values to this many rows instead of counting them; null: as the command says.",
    )

    shares: str | None = Field(None, description="Table whose rows the values use; null: rows of their own.")
    dynamic: DynamicSchema | None = Field(
        None, description="Values are ids that get rows while the model is trained, by these rules; null: they are not."
    )

    @property
    def table_name(self) -> str:
        """Name of the table whose rows the values use."""
        return self.shares or self.feature_name

    @model_validator(mode="after")
    def _one_way(self) -> _Values:
        if self.shares is not None and (self.min_count or self.hash_rows):
            raise ValueError(f"min_count and hash_rows are settings of {self.shares}; give them there")
        if self.min_count is not None and self.hash_rows is not None:
            raise ValueError("hashing does not count values; give min_count or hash_rows, not both")
        if self.dynamic is not None and (self.min_count or self.hash_rows or self.shares):
            raise ValueError(
                "a dynamic table has no vocabulary and rows of its own; remove min_count, hash_rows, shares"
            )
        return self


class Category(_Values):
    type: ValueType = Field(
        "text",
        description="hexadecimal: at most 8 digits, compared as numbers. integer: of 64 bits, for dynamic tables.",
    )


class Element(_Feature):
    """A value of each element of a sequence. Its column has as many values per row as that of the sequence."""

    type: Literal["real", "integer"] = Field("real", description="real: float32. integer: int64, at most 18 digits.")

    @property
    def in_schema(self) -> ElementSchema:
        """The value in the schema of the data set."""
        return ElementSchema(name=self.feature_name, kind=self.type)


class CategoryList(_Values):
    type: Literal["text", "integer"] = Field("text", description="integer: of 64 bits, for dynamic tables.")
    separator: str = Field("|", min_length=1, max_length=1, description="Character between the values of a text field.")
    sequence: bool = Field(False, description="Whether the values are in order, the oldest first, and not pooled.")
    elements: tuple[Element, ...] = Field((), description="Columns with a number for each element of a sequence.")
    along: str | None = Field(None, description="The sequence that this one goes along with, element by element.")

    @model_validator(mode="after")
    def _parts_of_sequences(self) -> CategoryList:
        if (self.elements or self.along) and not self.sequence:
            raise ValueError("elements and along are for sequences; set `sequence: true`, or remove them")
        return self


class History(_Part):
    """A sequence that the import makes: of each line, the values that earlier lines with the same key have."""

    of: str = Field(description="The feature under `categorical` whose values the history consists of.")
    by: Column = Field(description="The column that says whose history it is, such as a user.")
    order: Column | None = Field(
        None, description="A number that never falls within the lines of one value of `by`; null: not checked."
    )
    max_length: int = Field(200, ge=1, le=MAX_HISTORY_LENGTH, description="How many of the newest values are kept.")
    name: str | None = Field(None, pattern=NAME_PATTERN, description="Name in the data set; null: OF_history.")
    elements: tuple[Element, ...] = Field((), description="Columns with a number for each element; missing ones are 0.")
    along: tuple[str, ...] = Field((), description="Features under `categorical` that become a sequence along with it.")
    where: Column | None = Field(
        None, description="A column of 0 and 1: only lines with 1 enter the history; null: all lines do."
    )

    @field_validator("along")
    @classmethod
    def _distinct(cls, along: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in along if along.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once; name each feature once")
        return along

    @property
    def feature_name(self) -> str:
        """Name in the data set."""
        return self.name or f"{self.of}_history"

    @property
    def features(self) -> tuple[str, ...]:
        """The features whose values it keeps: `of`, then `along`."""
        return (self.of, *self.along)

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """Names of its sequences in the data set, one for each of `features`."""
        return (self.feature_name, *(f"{self.feature_name}_{feature}" for feature in self.along))

    def schemas(self, table_of: Mapping[str, tuple[str, int]]) -> tuple[TableSchema, ...]:
        """Return its sequences in the schema of the data set.

        Args:
            table_of: Of each feature under `categorical`, the name of its table and the number of rows of it.
        """
        return tuple(
            TableSchema(
                name=name,
                num_embeddings=table_of[feature][1],
                ragged=True,
                shares=table_of[feature][0],
                sequence=True,
                elements=() if number else tuple(element.in_schema for element in self.elements),
                along=self.feature_name if number else None,
            )
            for number, (name, feature) in enumerate(zip(self.sequence_names, self.features, strict=True))
        )

    def uses(self) -> Iterator[tuple[Column, tuple[Kind, ...]]]:
        """Yield its columns, and the kinds that each may have. A column that nothing else uses has the last one."""
        yield self.by, KEYS
        if self.order is not None:
            yield self.order, NUMBERS
        for element in self.elements:
            yield element, NUMBERS
        if self.where is not None:
            yield self.where, TRUTHS


class TableDescription(_Part):
    """Label, features and tables of a data set, with the columns that they come from.

    Raises:
        pydantic.ValidationError: Settings are unknown or contradict each other, or names are malformed or repeated.
    """

    label: Label | None = Field(
        None, description="null: samples have no labels, so they are for predictions only, or `labels` names them."
    )
    labels: tuple[NamedLabel, ...] = Field((), description="Several labels, or one with settings of its own.")
    weight: Column | None = Field(
        None, description="How much each sample counts, at least 0; null: all count the same."
    )
    group: Group | None = Field(
        None,
        description="What each sample belongs to, such as a user or a request, for metrics by group; null: nothing. A "
        "sample whose group is missing is a group of its own.",
    )
    time: Time | None = Field(
        None, description="The time of each sample, which must not fall from line to line; null: samples have no times."
    )
    dense: tuple[DenseFeature, ...] = Field((), description="Numbers; missing ones become 0.")
    categorical: tuple[Category, ...] = Field((), description="One embedding table each, with one row per sample.")
    lists: tuple[CategoryList, ...] = Field(
        (), description="One ragged table each, with any number of rows per sample."
    )
    history: tuple[History, ...] = Field(
        (), description="Sequences that the import makes of earlier lines; one or more."
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="Text: names of all columns, if files have no header; null: they have one."
    )
    delimiter: str = Field(",", description="Text: the character between columns.")
    quoting: bool = Field(True, description='Text: a field may be in double quotes, and "" inside it is one quote.')
    missing: tuple[str, ...] = Field((), description="Texts that stand for a missing value, besides the empty field.")
    _label_positions: tuple[int, ...] = PrivateAttr(())  # positions in `columns` of label columns that files may lack
    _absent_time: Time | None = PrivateAttr(None)  # the column of times, which only histories may need then
    _absent_labels: tuple[LabelSchema, ...] = PrivateAttr(())  # what models predict if files have no labels

    @field_validator("history", mode="before")
    @classmethod
    def _history_alone(cls, given: Any) -> Any:
        return (given,) if isinstance(given, dict | History) else given

    @field_validator("delimiter")
    @classmethod
    def _plain_delimiter(cls, delimiter: str) -> str:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '\r\n"\0':
            raise ValueError(r'must be one ASCII character, no quote and no line end, such as "," or "\t"')
        return delimiter

    @model_validator(mode="after")
    def _sound_names(self) -> TableDescription:
        if not self.tables:
            raise ValueError("no column is under categorical or lists; put at least one there")
        if self.label is not None and self.labels:
            raise ValueError("label and labels are both given; put all labels under labels")
        if self.labels == () and "labels" in self.model_fields_set and self.label is None:
            raise ValueError("labels is empty; name at least one label, or remove it: then samples have no labels")
        if self.weight is not None and not self.is_labelled:
            raise ValueError("weight says how much labels count, but there are none; name a label, or remove weight")
        self._check_tables()
        self._check_histories()
        rows = {table.feature_name: table.dynamic.num_rows if table.dynamic else 1 for table in self.tables}
        try:
            self.schema_of([rows[table.table_name] for table in self.tables])
        except ValidationError as error:
            reason = in_words(error.errors()[0])
            raise ValueError(f"{reason}; give columns that are used twice a `name`") from None
        return self

    def _check_tables(self) -> None:
        own = {table.feature_name: table for table in self.tables if table.shares is None}
        for table in self.tables:
            if (its := own.get(table.table_name)) is None:
                raise ValueError(
                    f"{table.feature_name} shares {table.shares}, but the tables with rows of their own are "
                    f"{', '.join(own) or 'none'}"
                )
            if its.type != table.type and table.shares is not None:
                raise ValueError(
                    f"{table.feature_name} shares {table.shares}, so both must have the same type, but they are "
                    f"{table.type} and {its.type}; give both the same `type`"
                )
            if table.type == "integer" and its.dynamic is None:
                raise ValueError(
                    f"{table.feature_name} is of type integer, which is for dynamic tables; make the table dynamic, or "
                    "remove `type: integer`: then numbers are compared as text"
                )

            if table.dynamic is not None and table.dynamic.lifetime_in_time is not None and self.time is None:
                raise ValueError(
                    f"{table.feature_name} expires after {table.dynamic.expire_after} of data time, but no column has "
                    "times; name it under `time`, or give a number of iterations, as in `500000 iterations`"
                )

    def _check_histories(self) -> None:
        known, lists = [each.feature_name for each in self.categorical], [each.feature_name for each in self.lists]
        for history in self.history:
            for setting, feature in (("of", history.of), *(("along", each) for each in history.along)):
                if feature not in known:
                    raise ValueError(
                        f"{setting} of the history {history.feature_name} is {feature!r}, but must be the name of a "
                        f"feature under categorical: {', '.join(known) or 'none'}"
                    )
        for each in self.lists:
            if each.along is not None and each.along not in lists:
                raise ValueError(
                    f"{each.feature_name} goes along {each.along}, but must go along a sequence under lists: "
                    f"{', '.join(other.feature_name for other in self.lists if other.sequence)}"
                )

    @field_validator("missing")
    @classmethod
    def _missing_fits_into_a_field(cls, missing: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for text in missing:
            if set(text) & {info.data.get("delimiter"), '"', "\r", "\n"}:
                raise ValueError(f"{text!r} contains the delimiter, a quote or a line end, so it cannot be a field")
        return missing

    @property
    def tables(self) -> tuple[Category | CategoryList, ...]:
        """Columns that become an embedding table or use one, in the order of the data set."""
        return (*self.categorical, *self.lists)

    def schema_of(self, num_embeddings: Sequence[int]) -> Schema:
        """Return the data set's schema, given the number of rows of each table."""
        tables = zip(self.tables, num_embeddings, strict=True)
        table_of = {table.feature_name: (table.table_name, rows) for table, rows in tables}
        return Schema(
            dense=tuple(feature.feature_name for feature in self.dense),
            tables=(
                *(
                    TableSchema(
                        name=table.feature_name,
                        num_embeddings=table_of[table.feature_name][1],
                        ragged=isinstance(table, CategoryList),
                        shares=table.shares,
                        dynamic=table.dynamic,
                        id_type=table.type if table.dynamic else None,
                        **_sequence_of(table),
                    )
                    for table in self.tables
                ),
                *(sequence for history in self.history for sequence in history.schemas(table_of)),
            ),
            labelled=self.is_labelled,
            labels=self.label_schemas,
            weighted=self.weight is not None,
            group=self.group.feature_name if self.group else None,
            time=self.time.feature_name if self.time else None,
        )

    @property
    def label_schemas(self) -> tuple[LabelSchema, ...]:
        """What models predict, also if samples have no labels."""
        return tuple(label.in_schema for label in self.labels) or self._absent_labels or (LabelSchema(),)

    @property
    def is_labelled(self) -> bool:
        """Whether samples have labels."""
        return self.label is not None or bool(self.labels)

    def without_label(self) -> TableDescription:
        """Return the same table for predictions, whose files may lack the columns of labels, weight, group, time."""
        update: dict[str, Any] = {"label": None, "labels": (), "weight": None, "group": None, "time": None}
        if self.columns is not None:
            parts = ("dense", "categorical", "lists")
            update |= {part: tuple(map(self._by_name, getattr(self, part))) for part in parts}
            update["history"] = tuple(map(self._history_by_name, self.history))
        copied = self.model_copy(update=update)
        copied._absent_time = None if self.time is None else self._by_name(self.time)
        copied._absent_labels = tuple(label.in_schema for label in self.labels)
        if self.columns is not None:
            with suppress(DatasetError):  # `columns` may already lack them
                absent = {position_of(column, self.columns) for column, _ in self._for_training()}
                copied._label_positions = tuple(sorted(absent - set(copied.kinds(self.columns))))
        return copied

    def _for_training(self) -> Iterator[tuple[str | int, Kind]]:
        """Yield the columns that predictions do not need, and their kinds."""
        if self.label is not None:
            yield self.label.column, self.label.kind
        yield from ((label.column, label.kind) for label in self.labels)
        if self.weight is not None:
            yield self.weight.column, "weight"
        if self.group is not None:
            yield self.group.column, "text"
        if self.time is not None:
            yield self.time.column, "time"

    def _by_name(self, feature: T) -> T:
        """Return the same feature with its column given by name, which stays right if an earlier column is absent."""
        named = self._column_by_name(feature)
        return named if named is feature else named.model_copy(update={"name": feature.feature_name})

    def _column_by_name(self, given: C) -> C:
        columns, column = self.columns or (), given.column
        if isinstance(column, int) and column <= len(columns) and columns.count(columns[column - 1]) == 1:
            return given.model_copy(update={"column": columns[column - 1]})
        return given

    def _history_by_name(self, history: History) -> History:
        columns = {part: getattr(history, part) for part in ("by", "order", "where")}
        named = {part: None if column is None else self._column_by_name(column) for part, column in columns.items()}
        return history.model_copy(update={**named, "elements": tuple(map(self._by_name, history.elements))})

    def columns_of(self, num_fields: int) -> list[str]:
        """Return the names of the columns of a file without a header whose first line has this many fields."""
        columns = list(self.columns or ())
        if num_fields == len(columns) - len(self._label_positions):
            columns = [name for position, name in enumerate(columns) if position not in self._label_positions]
        return columns

    def kinds(self, header: Sequence[str]) -> dict[int, Kind]:
        """Return what the used columns hold, by position.

        Raises:
            DatasetError: A column does not exist, its name is not unique, or it is used as two kinds.
        """
        kinds: dict[int, Kind] = {}
        for column, kind in self._uses():
            position = position_of(column, header)
            if {kinds.get(position), kind} == {"text", "time"}:
                kinds[position] = "text"  # any text may be a time, too
            elif kinds.setdefault(position, kind) != kind:
                raise _two_kinds(header[position], kinds[position], kind)
        for used, allowed in (use for history in self.history for use in history.uses()):
            position = position_of(used.column, header)
            if allowed == NUMBERS and self._is_time(used.column, header):
                allowed = ("text", "time")
            if kinds.setdefault(position, allowed[-1]) not in allowed:
                raise _two_kinds(header[position], kinds[position], allowed[-1])
        return kinds

    def _is_time(self, column: str | int, header: Sequence[str]) -> bool:
        """Return whether a column, which exists, is that of the times, which files for predictions may lack."""
        time = self.time_of_histories
        with suppress(DatasetError):
            return time is not None and position_of(time.column, header) == position_of(column, header)
        return False

    @property
    def time_of_histories(self) -> Time | None:
        """How histories read the column of times, also if samples have none because they are for predictions."""
        return self.time or self._absent_time

    def single_columns(self) -> Iterator[tuple[str | int, Kind]]:
        """Yield the columns with one value per row, and their kinds."""
        yield from self._for_training()
        yield from ((feature.column, feature.type) for feature in self.dense)
        yield from ((each.column, "text" if each.type == "integer" else each.type) for each in self.categorical)

    def history_columns(self) -> Iterator[str | int]:
        """Yield the columns that histories are made with, each with one value per row."""
        yield from (used.column for history in self.history for used, _ in history.uses())

    def _uses(self) -> Iterator[tuple[str | int, Kind]]:
        yield from self.single_columns()
        for each in self.lists:
            yield each.column, "text"
            yield from ((element.column, "element") for element in each.elements)


def _sequence_of(table: Category | CategoryList) -> dict[str, Any]:
    """Return what the schema of a table says of a sequence; nothing if it is none."""
    if not isinstance(table, CategoryList) or not table.sequence:
        return {}
    elements = tuple(element.in_schema for element in table.elements)
    return {"sequence": True, "elements": elements, "along": table.along}


def _two_kinds(column: str, first: Kind, second: Kind) -> DatasetError:
    words = {"binary": "a label of 0 and 1", "optional_binary": "0 or 1, as by `where`", "text": "a category or text"}
    uses = " and as ".join(words.get(kind, f"a {kind}") for kind in (first, second))
    return DatasetError(
        f"column {column!r} is used as {uses}; use it as one of them, or give the file a second column with its values"
    )


def position_of(column: str | int, header: Sequence[str]) -> int:
    """Return the position, counted from 0, of a column given by name or number.

    Raises:
        DatasetError: The column does not exist, or several have that name.
    """
    if isinstance(column, int) and column <= len(header):
        return column - 1
    if header.count(str(column)) == 1 and isinstance(column, str):
        return header.index(column)
    fault = "exists more than once: give its number" if column in header else "does not exist"
    close = difflib.get_close_matches(str(column).strip().lower(), [name.strip().lower() for name in header], 1, 0.8)
    if close and column not in header:
        meant = next(name for name in header if name.strip().lower() == close[0])
        fault += f" (did you mean {meant!r}?)"
    if isinstance(column, int):
        fault = f"does not exist: there are {len(header)} (write a name that is a number in quotes)"
    raise DatasetError(f"column {column!r} {fault}; columns: {_listed(header)}")


def _listed(header: Sequence[str]) -> str:
    names = ", ".join(header[:_MOST_LISTED])
    return names if len(header) <= _MOST_LISTED else f"{names} and {len(header) - _MOST_LISTED} more"
