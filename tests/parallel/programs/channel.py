"""On three ranks: the stream of plans. Rank 0 sends, the others receive."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.lookahead.codec import encode_end, encode_plan
from bagpipe_hpc.lookahead.plan import ServerPlan
from bagpipe_hpc.transport.channel import PlanReceiver, PlanSender
from bagpipe_hpc.transport.polite import wait_until

DEPTH = 3
NUM_PLANS = 60
POLLS = 2_000


def plan_of(rank: int, iteration: int) -> ServerPlan:
    """Sizes differ from a few bytes, which MPI sends at once, to a few hundred KiB, which it does not."""
    rows = np.arange(rank, rank + (40_000 if iteration % 7 == 3 else iteration), dtype=np.int64)
    none, count = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int32)
    return ServerPlan(iteration, rows, count + np.int32(len(rows)), none, none, count, none, 1, 1)


def send_all(sender: PlanSender, size: int) -> None:
    for iteration in range(NUM_PLANS):
        wait_until(sender.has_room)
        for rank in range(1, size):
            sender.send(rank, encode_plan(plan_of(rank, iteration)))
    for rank in range(1, size):
        sender.send(rank, encode_end())
    wait_until(sender.is_idle)
    assert sender.has_room()


def receive_all(receiver: PlanReceiver, rank: int) -> None:
    for iteration in range(NUM_PLANS):
        plan, expected = receiver.next(), plan_of(rank, iteration)
        assert isinstance(plan, ServerPlan)
        assert plan.iteration == iteration
        np.testing.assert_array_equal(plan.fetch_rows, expected.fetch_rows)
    assert receiver.next() is None


def order_is_kept(comm: MPI.Intracomm) -> None:
    if comm.rank == 0:
        sender = PlanSender(comm, DEPTH)
        send_all(sender, comm.size)
        messages = [encode_plan(plan_of(rank, i)) for i in range(NUM_PLANS) for rank in (1, 2)]
        assert sender.bytes_sent == sum(map(len, [*messages, encode_end(), encode_end()]))
    else:
        receive_all(PlanReceiver(comm), comm.rank)


def what_is_in_flight_is_bounded(comm: MPI.Intracomm) -> None:
    plans, steps = comm.Dup(), comm.Dup()
    if comm.rank == 0:
        sender = PlanSender(plans, DEPTH)
        assert sender.is_idle()
        for iteration in range(DEPTH):
            assert sender.has_room()
            for rank in (1, 2):
                sender.send(rank, encode_plan(plan_of(rank, iteration)))
        assert not any(sender.has_room() for _ in range(POLLS))  # nobody receives
        steps.send(None, 1)
        steps.recv(source=1)  # rank 1 has received all of its own, rank 2 none
        assert not any(sender.has_room() or sender.is_idle() for _ in range(POLLS))
        steps.send(None, 2)
        wait_until(sender.has_room)
        wait_until(sender.is_idle)
    else:
        steps.recv(source=0)
        receiver = PlanReceiver(plans)
        for iteration in range(DEPTH):
            plan = receiver.next()
            assert plan is not None
            assert plan.iteration == iteration
        if comm.rank == 1:
            steps.send(None, 0)
    plans.Free()
    steps.Free()


def messages_live_until_they_arrive(comm: MPI.Intracomm) -> None:
    """The sender keeps each message until it has arrived, whatever its caller forgets."""
    if comm.rank == 0:
        sender = PlanSender(comm, DEPTH)
        for rank in (1, 2):
            sender.send(rank, encode_plan(plan_of(rank, 3)))
        _ = [bytes([255]) * 400_000 for _ in range(20)]  # memory that is free would be used again
        wait_until(sender.is_idle)
    else:
        plan = PlanReceiver(comm).next()
        assert isinstance(plan, ServerPlan)
        np.testing.assert_array_equal(plan.fetch_rows, plan_of(comm.rank, 3).fetch_rows)


def main() -> None:
    comm = MPI.COMM_WORLD
    for check in (order_is_kept, what_is_in_flight_is_bounded, messages_live_until_they_arrive):
        check(comm)
        comm.Barrier()


if __name__ == "__main__":
    main()
