"""The position of a job in its training data, and the training iterations from there on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
        """The number of training iterations of the whole job, with those of earlier starts."""
        full_epochs = max(0, self.epochs - self.start.epoch - 1)
        left = self._left_in_first_epoch + full_epochs * self._per_epoch if self.start.epoch < self.epochs else 0
        end = self.start.num_trained + left
        return max(self.start.num_trained, min(end, self.max_iterations or end))

    @property
    def num_iterations(self) -> int:
        """The number of training iterations of this start."""
        return self.end - self.start.num_trained

    def position(self, num_trained: int) -> DataPosition:
        """Return the position after the first num_trained training iterations of the whole job."""
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
