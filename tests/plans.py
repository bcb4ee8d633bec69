"""Plans rank by rank, as the ranks see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bagpipe_hpc.protocol.codec import decode_plan, encode_plan
from bagpipe_hpc.protocol.plan import IterationPlan, ServerPlan, TrainerPlan


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
