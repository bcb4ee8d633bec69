"""On three ranks: the stream of plans. Rank 0 sends, the others receive."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.protocol.codec import encode_end, encode_plan
from bagpipe_hpc.protocol.plan import (
    BagLists,
    ExchangeLists,
    Int64Array,
    IterationPlan,
    Samples,
    ServerPlan,
    TransferLists,
)
from bagpipe_hpc.transport.channel import PlanReceiver, PlanSender

DEPTH = 3
NUM_PLANS = 60
POLLS = 2_000


def rows_of(rank: int, iteration: int) -> Int64Array:
    """Sizes differ from a few bytes, which MPI sends at once, to a few hundred KiB, which it does not."""
    return np.arange(rank, rank + (40_000 if iteration % 7 == 3 else iteration), dtype=np.int64) + 2**16


def message_of(rank: int, iteration: int) -> bytes:
    """The plan of one server, in a job of one."""
    none, row = np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=np.int32)
    rows = rows_of(rank, iteration)
    ends = np.zeros(2, dtype=np.int64)
    plan = IterationPlan(
        stream_position=iteration,
        num_trained=iteration,
        samples=Samples(
            np.zeros(0, dtype=np.float32),
            np.zeros((0, 0), dtype=np.float32),
            BagLists(none[0], ends, np.zeros(0, dtype=np.float32), ends, none[0], ends),
            ends,
            read_only=False,
        ),
        num_ids=none,
        inverse=row[:0],
        num_uniques=none,
        exchange=ExchangeLists(row, np.zeros((1, 1, 4), dtype=np.int32), row[:0], ends, row[:0], ends, row[:0], ends),
        fetches=TransferLists(none + len(rows), row[:0], rows),
        fetch_offsets=none,
        write_backs=TransferLists(none, row[:0], rows[:0]),
        forced_counts=none,
        write_back_offsets=none,
        fetch_ring_rows=1,
        write_back_ring_rows=1,
    )
    return encode_plan(plan).servers[0]


def send_all(sender: PlanSender, size: int) -> None:
    for iteration in range(NUM_PLANS):
        wait_until(sender.has_room)
        for rank in range(1, size):
            sender.send(rank, message_of(rank, iteration))
    for rank in range(1, size):
        sender.send(rank, encode_end())
    wait_until(sender.is_idle)
    assert sender.has_room()


def receive_all(receiver: PlanReceiver, rank: int) -> None:
    for iteration in range(NUM_PLANS):
        plan = receiver.next()
        assert isinstance(plan, ServerPlan)
        assert plan.stream_position == iteration
        np.testing.assert_array_equal(plan.fetch_rows, rows_of(rank, iteration))
    assert receiver.next() is None


def order_is_kept(comm: MPI.Intracomm) -> None:
    if comm.rank == 0:
        sender = PlanSender(comm, DEPTH)
        send_all(sender, comm.size)
        messages = [message_of(rank, i) for i in range(NUM_PLANS) for rank in (1, 2)]
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
                sender.send(rank, message_of(rank, iteration))
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
            assert isinstance(plan, ServerPlan)
            assert plan.stream_position == iteration
        if comm.rank == 1:
            steps.send(None, 0)
    plans.Free()
    steps.Free()


def messages_live_until_they_arrive(comm: MPI.Intracomm) -> None:
    """The sender keeps each message until it has arrived, whatever its caller forgets."""
    if comm.rank == 0:
        sender = PlanSender(comm, DEPTH)
        for rank in (1, 2):
            sender.send(rank, message_of(rank, 3))
        _ = [bytes([255]) * 400_000 for _ in range(20)]  # memory that is free would be used again
        wait_until(sender.is_idle)
    else:
        plan = PlanReceiver(comm).next()
        assert isinstance(plan, ServerPlan)
        np.testing.assert_array_equal(plan.fetch_rows, rows_of(comm.rank, 3))


def main() -> None:
    comm = MPI.COMM_WORLD
    for check in (order_is_kept, what_is_in_flight_is_bounded, messages_live_until_they_arrive):
        check(comm)
        comm.Barrier()


if __name__ == "__main__":
    main()
