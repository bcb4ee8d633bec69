"""What a job asks of a communicator, as checks that MPI's and the in-memory twin's must pass on three ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.transport.byte_messages import receive_bytes, take_bytes, wait_all

SIZE = 3


def collectives(comm: Any) -> None:
    assert comm.size == SIZE
    assert comm.allgather(comm.rank) == [0, 1, 2]
    assert comm.gather(f"of {comm.rank}") == (["of 0", "of 1", "of 2"] if comm.rank == 0 else None)
    assert comm.bcast("word" if comm.rank == 0 else None) == "word"
    assert comm.bcast(comm.rank, root=2) == 2
    comm.Barrier()


def parts(comm: Any) -> None:
    """Ranks 1 and 2, in the order of their keys."""
    part = comm.Split(MPI.UNDEFINED if comm.rank == 0 else 0, -comm.rank)
    if comm.rank == 0:
        assert part == MPI.COMM_NULL
    else:
        assert (part.rank, part.size) == (2 - comm.rank, 2)
        assert part != MPI.COMM_NULL
        assert part.allgather(comm.rank) == [2, 1]
        part.Free()
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    assert node.allgather(comm.rank) == [0, 1, 2]
    node.Free()


def messages_of_a_pair_keep_their_order(comm: Any) -> None:
    if comm.rank > 0:
        for size in (3, 0, 100_000):
            comm.Send([bytes([comm.rank]) * size, MPI.BYTE], 0, tag=7)
        comm.Send(b"plain", 0, 8)
    else:
        for rank in (2, 1):
            assert [len(receive_bytes(comm, rank, 7)) for _ in range(3)] == [3, 0, 100_000]
        assert sorted(bytes(receive_bytes(comm, MPI.ANY_SOURCE)) for _ in range(2)) == [b"plain", b"plain"]
        assert not comm.Iprobe()
        assert take_bytes(comm, MPI.ANY_SOURCE) is None
    comm.Barrier()


def messages_say_whom_they_are_from(comm: Any) -> None:
    sent = np.full(4, comm.rank, dtype=np.float32)
    if comm.rank > 0:
        wait_all([comm.Isend([sent, MPI.BYTE], 0, 5)])
    else:
        for _ in range(2):
            wait_until(lambda: comm.Iprobe(MPI.ANY_SOURCE, 5))
            taken = take_bytes(comm, MPI.ANY_SOURCE, 5)
            assert taken is not None
            assert np.frombuffer(taken[1], np.float32).tolist() == [taken[0]] * 4
            taken[1][0] = 1  # it is the receiver's own
    comm.Barrier()


def duplicates_are_apart(comm: Any) -> None:
    other = comm.Dup()
    assert other.rank == comm.rank
    if comm.rank == 1:
        other.Send([b"other", MPI.BYTE], 0)
        comm.Send([b"first", MPI.BYTE], 0)
    if comm.rank == 0:
        assert bytes(receive_bytes(comm, 1)) == b"first"
        assert bytes(receive_bytes(other, 1)) == b"other"
    other.Free()


def synchronous_sends_wait_for_the_receiver(comm: Any) -> None:
    if comm.rank == 0:
        request = comm.Issend([b"taken", MPI.BYTE], 1)
        assert not any(request.Test() for _ in range(1_000))
        comm.Send([b"go", MPI.BYTE], 1, 2)
        wait_until(request.Test)
        assert request.Test()
    if comm.rank == 1:
        receive_bytes(comm, 0, 2)
        assert bytes(receive_bytes(comm, 0)) == b"taken"
    comm.Barrier()


CHECKS = (
    collectives,
    parts,
    messages_of_a_pair_keep_their_order,
    messages_say_whom_they_are_from,
    duplicates_are_apart,
    synchronous_sends_wait_for_the_receiver,
)
