"""Plans rank by rank, as the ranks see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bagpipe_hpc.protocol.codec import decode_plan, encode_plan
from bagpipe_hpc.protocol.plan import IterationPlan, ServerPlan, TrainerPlan


def empty_trainer_plan() -> TrainerPlan:
    """A plan with no samples and no rows, for one trainer and one server."""
    kinds = {"Float32Array": np.float32, "Int32Array": np.int32, "Int64Array": np.int64, "Float64Array": np.float64}
    parts: dict[str, Any] = {}
    for field in fields(TrainerPlan):
        parts[field.name] = np.empty(0, kinds[str(field.type)]) if str(field.type) in kinds else 0
    return TrainerPlan(**parts | {"read_only": False, "dense": np.empty((0, 2), np.float32)})


@dataclass(frozen=True)
class RankPlans:
    """Everybody's part of one iteration."""

    stream_position: int
    trainers: tuple[TrainerPlan, ...]
    servers: tuple[ServerPlan, ...]


def rank_plans(plans: Iterable[IterationPlan]) -> Iterator[RankPlans]:
    """What arrives of each iteration plan."""
    for plan in plans:
        messages = encode_plan(plan)
        trainers = [decode_plan(bytearray(message)) for message in messages.trainers]
        servers = [decode_plan(bytearray(message)) for message in messages.servers]
        yield RankPlans(
            plan.stream_position,
            tuple(each for each in trainers if isinstance(each, TrainerPlan)),
            tuple(each for each in servers if isinstance(each, ServerPlan)),
        )
