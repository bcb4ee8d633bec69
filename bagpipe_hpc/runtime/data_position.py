"""Which samples the iterations of a job train on, from wherever it starts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bagpipe_hpc.config import TrainingConfig


@dataclass(frozen=True)
class Position:
    """The first training sample that has not been trained on, after so many iterations."""

    iteration: int = 0
    epoch: int = 0
    sample: int = 0


BEGINNING = Position()


@dataclass(frozen=True)
class Course:
    """The iterations from a position to the end of training.

    Args:
        start: Where training starts or goes on.
        num_samples: Of the training split.
        batch_size: Samples of an iteration; an epoch's last may have fewer.
        epochs: Passes over the training split.
        max_iterations: The job's last iteration at the latest; None: no limit.
    """

    start: Position
    num_samples: int
    batch_size: int
    epochs: int
    max_iterations: int | None = None

    @classmethod
    def of(cls, training: TrainingConfig, num_samples: int, start: Position) -> Course:
        """As configured."""
        return cls(start, num_samples, training.batch_size, training.epochs, training.iterations)

    @cached_property
    def end_iteration(self) -> int:
        """Iterations of the whole job, those before the start included."""
        full_epochs = max(0, self.epochs - self.start.epoch - 1)
        left = self._left_in_first_epoch + full_epochs * self._per_epoch if self.start.epoch < self.epochs else 0
        end = self.start.iteration + left
        return max(self.start.iteration, min(end, self.max_iterations or end))

    def position(self, iteration: int) -> Position:
        """Where training stands after so many iterations of the job."""
        done = iteration - self.start.iteration
        if done < self._left_in_first_epoch:
            return Position(iteration, self.start.epoch, self.start.sample + done * self.batch_size)
        epochs, batches = divmod(done - self._left_in_first_epoch, self._per_epoch)
        return Position(iteration, self.start.epoch + 1 + epochs, batches * self.batch_size)

    @property
    def _per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @property
    def _left_in_first_epoch(self) -> int:
        return -(-(self.num_samples - self.start.sample) // self.batch_size)
