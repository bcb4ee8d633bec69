"""Learning rates: functions of only the iteration, so neither a restart nor overlapping iterations can shift them.

Pure. `num_trained` identifies an iteration: the number of training iterations of the whole job up to and including it.
The first iteration is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bagpipe_hpc.config import ScheduleConfig

CONSTANT = ScheduleConfig()


@dataclass(frozen=True)
class LearningRate:
    """A base rate and its schedule. Call it with num_trained to get the rate of that iteration."""

    base: float
    schedule: ScheduleConfig = CONSTANT

    def __call__(self, num_trained: int) -> float:
        return self.base * factor(self.schedule, num_trained)


def factor(schedule: ScheduleConfig, num_trained: int) -> float:
    """Return the factor of the base rate in an iteration, in [0, 1]. It is 1 in the last iteration of the warm-up."""
    warm_up = schedule.warm_up_iterations
    if num_trained <= warm_up:
        return num_trained / warm_up
    done = num_trained - warm_up  # iterations since the end of the warm-up
    last, length = schedule.decay_factor, schedule.decay_iterations or 1
    match schedule.decay:
        case "constant":
            return 1.0
        case "linear":
            return last + (1 - last) * max(0.0, 1 - done / length)
        case "cosine":
            return last + (1 - last) * (1 + math.cos(math.pi * min(1.0, done / length))) / 2
        case "inverse_sqrt":
            return math.sqrt(max(1, warm_up) / (max(1, warm_up) + done))
        case "step":
            return last ** (done // length)
