"""Learning rates: functions of the iteration alone, so neither a restart nor an overlap of iterations can shift them.

Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bagpipe_hpc.config import ScheduleConfig

CONSTANT = ScheduleConfig()


@dataclass(frozen=True)
class LearningRate:
    """A rate, and what a schedule makes of it; call it with an iteration, counted from the job's beginning."""

    base: float
    schedule: ScheduleConfig = CONSTANT

    def __call__(self, iteration: int) -> float:
        return self.base * factor(self.schedule, iteration)


def factor(schedule: ScheduleConfig, iteration: int) -> float:
    """The part of the base rate that an iteration gets, in [0, 1]: 1 in the last iteration of the warm-up."""
    warm_up = schedule.warm_up_iterations
    if iteration < warm_up:
        return (iteration + 1) / warm_up
    done = iteration + 1 - warm_up  # iterations since the rate was whole
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
