"""Consecutive samples as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.sharding import Int64Array

Float32Array = NDArray[np.float32]
IdArray = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class RaggedIds:
    """Row ids of one ragged table: sample s has `ids[offsets[s]:offsets[s + 1]]`."""

    offsets: Int64Array  # (num_samples + 1,), starts at 0, never falls
    ids: Int64Array  # (offsets[-1],)

    def slice(self, start: int, stop: int) -> RaggedIds:
        """Samples [start, stop)."""
        offsets = self.offsets[start : stop + 1]
        return RaggedIds(offsets - offsets[0], self.ids[offsets[0] : offsets[-1]])

    def take(self, samples: Int64Array) -> RaggedIds:
        """Some samples, in any order."""
        counts = np.diff(self.offsets)[samples]
        offsets = np.zeros(len(samples) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[samples] - offsets[:-1], counts)
        return RaggedIds(offsets, self.ids[places])

    @staticmethod
    def concatenate(pieces: Sequence[RaggedIds]) -> RaggedIds:
        """Samples of all pieces, one after the other."""
        counts = np.concatenate([np.diff(piece.offsets) for piece in pieces])
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return RaggedIds(offsets, np.concatenate([piece.ids for piece in pieces]))


@dataclass(frozen=True)
class Batch:
    """Consecutive samples; row ids count within their table."""

    labels: Float32Array  # (num_samples,)
    dense: Float32Array  # (num_samples, num_dense)
    ids: IdArray  # (num_samples, num_one_hot_tables), columns in the order of the schema
    ragged: Mapping[str, RaggedIds] = field(default_factory=dict)  # by table name; empty where all tables are one-hot

    @property
    def num_samples(self) -> int:
        """Samples in the batch."""
        return len(self.labels)

    def slice(self, start: int, stop: int) -> Batch:
        """Samples [start, stop), without a copy where that is possible."""
        return Batch(
            self.labels[start:stop],
            self.dense[start:stop],
            self.ids[start:stop],
            {name: ragged.slice(start, stop) for name, ragged in self.ragged.items()},
        )

    def take(self, samples: Int64Array) -> Batch:
        """Some samples, in any order."""
        return Batch(
            self.labels[samples],
            self.dense[samples],
            self.ids[samples],
            {name: ragged.take(samples) for name, ragged in self.ragged.items()},
        )

    @staticmethod
    def concatenate(pieces: Sequence[Batch]) -> Batch:
        """Samples of all pieces, one after the other; a single piece is returned as it is."""
        if len(pieces) == 1:
            return pieces[0]
        return Batch(
            np.concatenate([piece.labels for piece in pieces]),
            np.concatenate([piece.dense for piece in pieces]),
            np.concatenate([piece.ids for piece in pieces]),
            {name: RaggedIds.concatenate([piece.ragged[name] for piece in pieces]) for name in pieces[0].ragged},
        )
