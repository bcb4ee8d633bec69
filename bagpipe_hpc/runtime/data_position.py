"""The position of a job in its training data, and the training iterations from there on. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from bagpipe_hpc.config import TrainingConfig


@dataclass(frozen=True)
class DataPosition:
    """The position of the first training sample that the job has not trained on.

    Args:
        num_trained: Training iterations of the whole job up to here.
        epoch: The number of complete passes over the training split.
        sample: The number of samples of the next pass that the job has trained on.
    """

    num_trained: int = 0
    epoch: int = 0
    sample: int = 0


BEGINNING = DataPosition()


@dataclass(frozen=True)
class TrainingRange:
    """The training iterations of this start of a job.

    Args:
        start: Where training starts or goes on.
        num_samples: The number of samples of the training split.
        batch_size: The number of samples of an iteration. The last iteration of an epoch may have fewer.
        epochs: The number of passes of the whole job over the training split.
        max_iterations: The largest number of training iterations of the whole job. None: there is no such limit.
        ends: Where a batch must end, in samples, rising; the last one is num_samples. Empty: only at num_samples.
    """

    start: DataPosition
    num_samples: int
    batch_size: int
    epochs: int
    max_iterations: int | None = None
    ends: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, training: TrainingConfig, num_samples: int, start: DataPosition, ends: Sequence[int] = ()
    ) -> TrainingRange:
        """Return the range that the settings ask for."""
        return cls(start, num_samples, training.batch_size, training.epochs, training.iterations, tuple(ends))

    @cached_property
    def end(self) -> int:
        """The number of training iterations of the whole job, with those of earlier starts."""
        full_epochs = max(0, self.epochs - self.start.epoch - 1)
        left = self._first_pass.num_batches + full_epochs * self._pass.num_batches
        left = left if self.start.epoch < self.epochs else 0
        end = self.start.num_trained + left
        return max(self.start.num_trained, min(end, self.max_iterations or end))

    @property
    def num_iterations(self) -> int:
        """The number of training iterations of this start."""
        return self.end - self.start.num_trained

    def said_of_nothing_left(self) -> str:
        """Say that this start trains nothing, and what mends it; empty: it trains."""
        if self.num_iterations:
            return ""
        return (
            f"nothing is left to train after {self.end:,} iterations; to go on, also with another data set, raise "
            "training.epochs or training.iterations"
        )

    def position(self, num_trained: int) -> DataPosition:
        """Return the position after the first num_trained training iterations of the whole job."""
        done = num_trained - self.start.num_trained
        if done < self._first_pass.num_batches:
            return DataPosition(num_trained, self.start.epoch, self._first_pass.sample_of(done))
        epochs, batches = divmod(done - self._first_pass.num_batches, self._pass.num_batches)
        return DataPosition(num_trained, self.start.epoch + 1 + epochs, self._pass.sample_of(batches))

    def stretches(self, epoch: int) -> list[tuple[int, int]]:
        """Return the samples [first, last) that are left of an epoch. No batch has samples of two stretches."""
        return (self._first_pass if epoch == self.start.epoch else self._pass).stretches

    def num_trained_at(self, sample: int) -> int | None:
        """Return after how many iterations the pass that goes on has come to a sample with which a batch begins.

        The result is None if it is past this sample already.
        """
        if sample < self.start.sample:
            return None
        return self.start.num_trained + self._first_pass.num_batches_before(sample)

    @cached_property
    def _pass(self) -> _Pass:
        return _Pass(0, self.ends or (self.num_samples,), self.batch_size)

    @cached_property
    def _first_pass(self) -> _Pass:
        return _Pass(self.start.sample, self.ends or (self.num_samples,), self.batch_size)


class _Pass:
    """The batches of a pass over samples.

    Args:
        first: The first sample.
        ends: Where a batch must end, rising.
        batch_size: The number of samples of a batch; one that ends at one of the ends may have fewer.
    """

    def __init__(self, first: int, ends: Sequence[int], batch_size: int) -> None:
        later = ends[bisect_right(ends, first) :] or [first]
        self._starts = [first, *later[:-1]]
        self.stretches = list(zip(self._starts, later, strict=True))
        sizes = (-(-(end - start) // batch_size) for start, end in self.stretches)
        self._before = list(accumulate(sizes, initial=0))  # batches before each stretch
        self._batch_size = batch_size
        self.num_batches = self._before[-1]

    def sample_of(self, batch: int) -> int:
        """Return the first sample of a batch, which is below num_batches or, if there are none, 0."""
        stretch = min(bisect_right(self._before, batch), len(self._starts)) - 1
        return self._starts[stretch] + (batch - self._before[stretch]) * self._batch_size

    def num_batches_before(self, sample: int) -> int:
        """Return the number of batches before a sample with which a batch begins."""
        stretch = bisect_right(self._starts, sample) - 1
        return self._before[stretch] + -(-(sample - self._starts[stretch]) // self._batch_size)
