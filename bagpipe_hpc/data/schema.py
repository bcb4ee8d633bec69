"""The parts of a sample: labels, dense features, features with embedding tables, a weight, a group and a time."""

from __future__ import annotations

from itertools import zip_longest
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, field_validator, model_validator

from bagpipe_hpc.dynamic_rules import DynamicSchema, ValueType
from bagpipe_hpc.feature_tables import FeatureTables

T = TypeVar("T")

# Table names are also names of HDF5 groups: they have no slash and no leading dot.
NAME_PATTERN = r"^\w[\w.-]*$"
MAX_ROWS = 2**62  # of all tables together, because keys are int64
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class ElementSchema(BaseModel):
    """A value of each element of a sequence, such as its time or a rating. real: float32. integer: int64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: Literal["real", "integer"] = "real"


class TableSchema(BaseModel):
    """One embedding table and the feature that uses it, or a further feature that uses the rows of another table.

    A feature is one-hot (one row id per sample) or ragged (any number of row ids per sample, perhaps with weights). A
    *sequence* is a ragged feature whose ids are in order, the oldest first. It is not pooled. Its elements may have
    values, and other sequences may go along with it, element by element.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    num_embeddings: PositiveInt  # at most MAX_ROWS, together with all other tables
    ragged: bool = False
    weighted: bool = False
    shares: Name | None = None  # the table whose rows the feature uses; None: it has rows of its own
    sequence: bool = False
    elements: tuple[ElementSchema, ...] = ()  # values of each element of a sequence
    along: Name | None = None  # the sequence that this one is as long as, in every sample
    dynamic: DynamicSchema | None = None  # the ids are any 64-bit integers, which get rows by these rules; None: rows
    id_type: ValueType | None = None  # what the ids of a dynamic table are; None: an earlier release did not record it

    @model_validator(mode="after")
    def _weights_of_bags(self) -> TableSchema:
        if self.weighted and not self.ragged:
            raise ValueError(f"table {self.name} is weighted, so it must be ragged, too: a single id has no weight")
        if self.sequence and (not self.ragged or self.weighted):
            raise ValueError(f"table {self.name} is a sequence, so it must be ragged and without weights")
        if (self.elements or self.along) and not self.sequence:
            raise ValueError(f"table {self.name} is no sequence, so it has neither elements nor along")
        _require_distinct(self.elements, tuple(element.name for element in self.elements))
        if self.dynamic is not None and self.shares is not None:
            raise ValueError(f"table {self.name} uses the rows of {self.shares}, so {self.shares} says what is dynamic")
        if self.dynamic is None and self.id_type is not None:
            raise ValueError(f"table {self.name} is not dynamic, so its rows have no id_type")
        if self.dynamic is not None and self.num_embeddings != self.dynamic.num_rows:
            raise ValueError(
                f"table {self.name} has {self.num_embeddings} rows, but capacity and default_rows make "
                f"{self.dynamic.num_rows}"
            )
        return self

    @property
    def table_name(self) -> str:
        """Name of the table whose rows the feature uses."""
        return self.shares or self.name

    @property
    def kind(self) -> str:
        """The kind of the feature, and whose rows it uses, in words."""
        kind = "sequence" if self.sequence else "ragged" if self.ragged else "one-hot"
        kind = ("weighted " if self.weighted else "") + kind
        if self.elements:
            kind += f" with {', '.join(element.name for element in self.elements)}"
        if self.along:
            kind += f" along {self.along}"
        if self.dynamic:
            kind = f"dynamic {kind}"
        return f"{kind}, rows of {self.shares}" if self.shares else kind

    @property
    def element_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the values of its elements: real ones, integer ones."""
        reals, integers = (tuple(e.name for e in self.elements if e.kind == kind) for kind in ("real", "integer"))
        return reals, integers

    def __str__(self) -> str:
        return f"{self.name}: {self.num_embeddings} rows, {self.kind}"


class LabelSchema(BaseModel):
    """What a label of a sample may be.

    binary: 0 or 1. real: any finite number. optional: it may be missing, as nan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "label"
    kind: Literal["binary", "real"] = "binary"
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}{', may be missing' if self.optional else ''}"


class Schema(BaseModel):
    """Labels, dense features and tables of every sample, in the order of the columns.

    Raises:
        pydantic.ValidationError: A name is malformed or used twice, or a table has no rows or shares those of no table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: tuple[Name, ...] = ()
    tables: tuple[TableSchema, ...] = Field(min_length=1)
    labelled: bool = True  # whether samples have labels; samples without labels are only for predictions
    labels: tuple[LabelSchema, ...] = Field((LabelSchema(),), min_length=1)  # what models predict
    weighted: bool = False  # whether samples have weights
    group: Name | None = None  # what a group of samples is, such as a user or a request; None: there are no groups
    time: Name | None = None  # what the time of a sample is; samples are in its order. None: they have no times

    @field_validator("labels")
    @classmethod
    def _distinct_labels(cls, labels: tuple[LabelSchema, ...]) -> tuple[LabelSchema, ...]:
        return _require_distinct(labels, tuple(label.name for label in labels))

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
        sequences = {table.name for table in tables if table.sequence and table.along is None}
        for table in tables:
            if table.along is not None and table.along not in sequences:
                raise ValueError(
                    f"table {table.name} goes along {table.along}, but the sequences that others may go along are "
                    f"{', '.join(sorted(sequences)) or 'none'}"
                )
        return _require_distinct(tables, tuple(table.name for table in tables))

    @property
    def num_labels(self) -> int:
        """Number of labels of a sample: the logits of a model."""
        return len(self.labels)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the labels of one sample, and of the logits that a model returns for it."""
        return () if self.num_labels == 1 else (self.num_labels,)

    @property
    def has_plain_labels(self) -> bool:
        """Whether each sample has one binary label, which is there, and no weight."""
        return not self.weighted and self.num_labels == 1 and self.labels[0] == LabelSchema(name=self.labels[0].name)

    @property
    def num_dense(self) -> int:
        """Number of dense features of a sample."""
        return len(self.dense)

    @property
    def num_tables(self) -> int:
        """Number of features with embeddings, one-hot and ragged: the vectors of a sample."""
        return len(self.tables)

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Number of rows of each table with rows of its own, in table order."""
        return tuple(table.num_embeddings for table in self.own_tables)

    @property
    def own_tables(self) -> tuple[TableSchema, ...]:
        """Tables with rows of their own."""
        return tuple(table for table in self.tables if table.shares is None)

    @property
    def features(self) -> FeatureTables:
        """For each feature, the table whose rows it uses."""
        places = {table.name: place for place, table in enumerate(self.own_tables)}
        return FeatureTables(
            tuple(places[table.table_name] for table in self.tables),
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
    def sequences(self) -> tuple[TableSchema, ...]:
        """Features that are not pooled."""
        return tuple(table for table in self.tables if table.sequence)

    @property
    def dynamic_tables(self) -> dict[str, DynamicSchema]:
        """The rules of the dynamic tables, by name of the table."""
        return {table.name: table.dynamic for table in self.own_tables if table.dynamic is not None}

    @property
    def dynamic_features(self) -> tuple[TableSchema, ...]:
        """Features whose ids are any 64-bit integers, because they use a dynamic table."""
        dynamic = self.dynamic_tables
        return tuple(table for table in self.tables if table.table_name in dynamic)

    @property
    def pooled_tables(self) -> tuple[TableSchema, ...]:
        """Features with one vector per sample: all but sequences."""
        return tuple(table for table in self.tables if not table.sequence)

    @property
    def is_plain(self) -> bool:
        """Whether each sample has one row id in each table."""
        return not self.ragged_tables and not self.dynamic_tables and len(self.own_tables) == len(self.tables)

    def difference(self, other: Schema) -> str:
        """Return a message that names the first part in which another schema differs; empty if there is none.

        Whether samples have labels is no part of this.
        """
        return self.difference_of_features(other) or self._difference_of_targets(other)

    def difference_of_features(self, other: Schema) -> str:
        """Return a message that names the first feature in which another schema differs; empty if there is none."""
        if self.dense != other.dense:
            return f"dense features {list(self.dense)} against {list(other.dense)}"
        if self.num_tables != other.num_tables:
            return f"{self.num_tables} tables against {other.num_tables}"
        for mine, others in zip(self.tables, other.tables, strict=True):
            if mine != others and str(mine) != str(others):
                return f"table ({mine}) against ({others})"
            if fault := _first_difference(f"table {mine.name}", mine, others):
                return fault
        return ""

    def _difference_of_targets(self, other: Schema) -> str:
        for label, other_label in zip_longest(self.labels, other.labels):
            if label != other_label:
                return f"label ({label or 'none'}) against ({other_label or 'none'})"
        if self.weighted != other.weighted:
            return f"{_weights(self)} against {_weights(other)}"
        if self.group != other.group:
            return f"groups by {self.group or 'nothing'} against {other.group or 'nothing'}"
        if self.time != other.time:
            return f"times by {self.time or 'nothing'} against {other.time or 'nothing'}"
        return ""


def _first_difference(name: str, mine: Any, other: Any) -> str:
    """Return the name of the first field that differs, with both values; empty if there is none."""
    if isinstance(mine, BaseModel) and isinstance(other, BaseModel):
        parts = [(f"{name}.{each}", getattr(mine, each), getattr(other, each)) for each in type(mine).model_fields]
    elif isinstance(mine, tuple) and isinstance(other, tuple) and len(mine) == len(other):
        parts = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(mine, other, strict=True))]
    else:
        return "" if mine == other else f"{name} is {mine!r} against {other!r}"
    return next(filter(None, (_first_difference(*part) for part in parts)), "")


def _weights(schema: Schema) -> str:
    return "samples with weights" if schema.weighted else "samples without weights"


def _require_distinct(value: T, names: tuple[str, ...]) -> T:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"every name may be used once, but these are used more often: {', '.join(twice)}")
    return value
