"""What the kernels need to know of the features: their order, how they are pooled, which columns their tables use."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.feature_inputs import is_unpooled
from bagpipe_hpc.trainer.sample_blocks import FeatureKinds

# Kinds of features: one of the first three, or a sequence, which is not pooled. WEIGHTED is added to SUM or MEAN.
ONE_HOT, SUM, MEAN, WEIGHTED, SEQUENCE = 0, 1, 2, 4, 8


@dataclass(frozen=True)
class FeatureLayout:
    """The features of one schema, F in number.

    A *place* is the position of a feature in table order (lookahead/features.py).

    Args:
        features: The number of the feature in each place, int32, shape (F,).
        kinds: The kind of the feature in each place, int32, shape (F,).
        table_ends: The features of table t have the places from table_ends[t] to table_ends[t + 1], int32.
        used_columns: The number of embedding columns that the table of each feature uses, int32, shape (F,), by number
            of the feature. The columns from there to embedding_dim are masked; those behind are used by all tables.
        embedding_dim: The number of embedding columns.
        row_dim: The number of trained columns: embedding columns, then first-order weights.
        names: The name of the feature in each place.
        elements: The names of the values of each id of the feature in each place, real ones first: (reals, integers).
        is_beside_sequences: Whether samples have sequences, too, which this layout leaves out.
    """

    features: NDArray[np.int32]
    kinds: NDArray[np.int32]
    table_ends: NDArray[np.int32]
    used_columns: NDArray[np.int32]
    embedding_dim: int
    row_dim: int
    names: tuple[str, ...] = ()
    elements: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    is_beside_sequences: bool = False

    @property
    def pooled(self) -> FeatureLayout:
        """The layout of the features that are no sequences. Their numbers are their places among the vectors."""
        if not self.has_sequences:
            return self
        is_pooled = self.kinds != SEQUENCE
        features, places = self.features[is_pooled], np.flatnonzero(is_pooled).tolist()
        return FeatureLayout(
            np.argsort(np.argsort(features)).astype(np.int32),
            self.kinds[is_pooled],
            np.append(0, np.cumsum(is_pooled))[self.table_ends].astype(np.int32),
            self.used_columns[np.sort(features)],
            self.embedding_dim,
            self.row_dim,
            tuple(self.names[place] for place in places),
            tuple(self.elements[place] for place in places),
            is_beside_sequences=True,
        )

    @property
    def has_sequences(self) -> bool:
        """Whether any feature is a sequence that is not pooled."""
        return bool((self.kinds == SEQUENCE).any())

    @property
    def has_bags(self) -> bool:
        """Whether any feature of the samples is ragged."""
        return self.is_beside_sequences or bool((self.kinds != ONE_HOT).any())

    @property
    def has_weights(self) -> bool:
        """Whether any feature is weighted."""
        return bool((self.kinds & WEIGHTED).any())

    @property
    def has_means(self) -> bool:
        """Whether any feature is pooled by mean."""
        return bool((self.kinds & MEAN).any())

    @property
    def feature_kinds(self) -> FeatureKinds:
        """Which features are ragged, and how many values their ids have."""
        weighted = ((self.kinds & WEIGHTED) != 0).tolist()
        elements = self.elements or (((), ()),) * len(weighted)
        reals = [own + len(names) for own, (names, _) in zip(weighted, elements, strict=True)]
        return FeatureKinds((self.kinds != ONE_HOT).tolist(), reals, [len(names) for _, names in elements])

    @property
    def is_masked(self) -> bool:
        """Whether any table does not use all columns."""
        return bool((self.used_columns < self.embedding_dim).any())


class DeviceLayout:
    """A FeatureLayout whose arrays are on the device.

    `pooled` is that of FeatureLayout.pooled.

    Args:
        layout: The features.
        device: The device.
    """

    def __init__(self, layout: FeatureLayout, device: torch.device) -> None:
        self.layout = layout
        self.features, self.kinds, self.used_columns = (
            torch.from_numpy(array).to(device) for array in (layout.features, layout.kinds, layout.used_columns)
        )
        self.pooled: DeviceLayout = DeviceLayout(layout.pooled, device) if layout.has_sequences else self


def layout_of(schema: Schema, config: Config) -> FeatureLayout:
    """Return the layout of the features of a schema, as trainer/pooling.py pools them."""
    order = schema.features.in_table_order
    used = [config.embedding_dim_of(table.table_name) for table in schema.tables]
    return FeatureLayout(
        np.array(order, dtype=np.int32),
        np.array([_kind(schema.tables[feature], config) for feature in order], dtype=np.int32),
        np.cumsum([0, *Counter(sorted(schema.features.tables)).values()], dtype=np.int32),
        np.array(used, dtype=np.int32),
        config.model.embedding_dim,
        config.model.row_dim,
        tuple(schema.tables[feature].name for feature in order),
        tuple(schema.tables[feature].element_names for feature in order),
    )


def _kind(table: TableSchema, config: Config) -> int:
    if not table.ragged:
        return ONE_HOT
    if is_unpooled(config, table):
        return SEQUENCE
    settings = config.tables.get(table.name)
    pooling = MEAN if settings is not None and settings.pooling == "mean" else SUM
    return pooling | WEIGHTED if table.weighted else pooling
