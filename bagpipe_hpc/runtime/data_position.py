"""Which samples the iterations of a job train on, from wherever it starts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bagpipe_hpc.config import TrainingConfig


@dataclass(frozen=True)
class DataPosition:
    """The first training sample that has not been trained on.

    Args:
        num_trained: Training iterations of the whole job up to here.
        epoch: Passes over the training split that are complete.
        sample: Samples of the present pass that have been trained on.
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
        num_samples: Samples of the training split.
        batch_size: Samples of an iteration; the last one of an epoch may have fewer.
        epochs: Passes of the whole job over the training split.
        max_iterations: The whole job has at most so many iterations; None: there is no such limit.
    """

    start: DataPosition
    num_samples: int
    batch_size: int
    epochs: int
    max_iterations: int | None = None

    @classmethod
    def of(cls, training: TrainingConfig, num_samples: int, start: DataPosition) -> TrainingRange:
        """Return the range that the settings ask for."""
        return cls(start, num_samples, training.batch_size, training.epochs, training.iterations)

    @cached_property
    def end(self) -> int:
        """Training iterations of the whole job, those of earlier starts included."""
        full_epochs = max(0, self.epochs - self.start.epoch - 1)
        left = self._left_in_first_epoch + full_epochs * self._per_epoch if self.start.epoch < self.epochs else 0
        end = self.start.num_trained + left
        return max(self.start.num_trained, min(end, self.max_iterations or end))

    @property
    def num_iterations(self) -> int:
        """Training iterations of this start."""
        return self.end - self.start.num_trained

    def position(self, num_trained: int) -> DataPosition:
        """Return where training stands after so many iterations of the whole job."""
        done = num_trained - self.start.num_trained
        if done < self._left_in_first_epoch:
            return DataPosition(num_trained, self.start.epoch, self.start.sample + done * self.batch_size)
        epochs, batches = divmod(done - self._left_in_first_epoch, self._per_epoch)
        return DataPosition(num_trained, self.start.epoch + 1 + epochs, batches * self.batch_size)

    @property
    def _per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @property
    def _left_in_first_epoch(self) -> int:
        return -(-(self.num_samples - self.start.sample) // self.batch_size)
