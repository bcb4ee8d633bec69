"""The handshakes at the start and the end of a job. Every handshake is collective over the world.

    start   agree_on_cache_rows                               all ranks
    end     agree_on_end                                      all ranks
            send_totals             collect_totals            servers and trainers; the oracle
            send_dense_parameters   receive_dense_parameters  trainer 0; the oracle
            send_model_rows         receive_model_rows        servers; the oracle
            agree_on_outcome                                  all ranks

The two sides of a handshake stand next to each other in this module. If all ranks call the same function, its argument
is the contribution of this rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc import errors
from bagpipe_hpc.digest import merge_rows
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.protocol.ports import World
from bagpipe_hpc.protocol.record import decode_record, encode_record
from bagpipe_hpc.protocol.totals import RankTotals, ServerTotals, TrainerTotals, decode_totals, encode_totals
from bagpipe_hpc.sharding import Sharding
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.waiting import note_start, note_step, waiting_for

ROWS_PER_PIECE = 1 << 16  # local rows of each server

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def agree_on_cache_rows(world: World, limit: int | None) -> int:
    """Return how many slots the cache of every trainer has: the smallest of the trainers' limits.

    Args:
        world: All ranks.
        limit: The number of slots that this trainer can hold; None at ranks that are not trainers.
    Communication: collective over world.
    """
    with waiting_for("all ranks: to start"):
        limits = world.gather(b"" if limit is None else str(limit).encode())
        smallest = None if limits is None else str(min(int(each) for each in limits if each)).encode()
        agreed = int(world.broadcast(smallest))
    note_start()
    return agreed


def agree_on_end(world: World, is_complete: bool | None) -> bool:
    """Return whether the job has come to its end, so that the model and the totals are collected.

    Args:
        world: All ranks.
        is_complete: The decision of the oracle; None at the other ranks.
    Communication: collective over world.
    """
    decision = None if is_complete is None else bytes([is_complete])
    with waiting_for("the oracle: how the job ends"):
        return bool(world.broadcast(decision)[0])


def send_totals(world: World, totals: ServerTotals | TrainerTotals) -> None:
    """Send the totals of a server or a trainer to the oracle, which calls `collect_totals`.

    Communication: collective over world.
    """
    world.gather(encode_totals(totals))


def collect_totals(world: World, topology: Topology) -> RankTotals:
    """Return the totals of all servers and trainers, which call `send_totals`.

    Raises:
        ProtocolError: totals are damaged or from another version of bagpipe_hpc.
    Communication: collective over world.
    """
    with waiting_for("all ranks: their totals"):
        contents = world.gather(b"")
    assert contents is not None
    return decode_totals(
        [contents[rank] for rank in topology.server_ranks], [contents[rank] for rank in topology.trainer_ranks]
    )


def send_dense_parameters(world: World, parameters: Mapping[str, NDArray[np.float32]]) -> None:
    """Send the dense parameters of the model from trainer 0 to the oracle.

    Args:
        world: All ranks.
        parameters: float32 of any shape, by name.
    Communication: sends to the oracle; may wait until it receives.
    """
    with waiting_for("the oracle: to take the model"):
        world.send(encode_record(parameters), ORACLE_RANK)


def receive_dense_parameters(world: World, topology: Topology) -> dict[str, NDArray[np.float32]]:
    """Return the dense parameters of the model, float32 of any shape, by name. Trainer 0 calls `send_dense_parameters`.

    Raises:
        ProtocolError: the message is damaged or from another version of bagpipe_hpc.
    Communication: receives from trainer 0.
    """
    with waiting_for("trainer 0: its part of the model"):
        return decode_record(world.receive(topology.trainer_ranks[0]))


def send_model_rows(world: World, sharding: Sharding, rows_from: Iterable[Rows]) -> None:
    """Send all touched rows of a server to the oracle, in pieces.

    Args:
        world: All ranks.
        sharding: The distribution of the keys over the servers.
        rows_from: One piece for each of `piece_starts(sharding)`: keys, int64, shape (n,), ascending, and rows,
            float32, shape (n, row_width).
    Communication: sends to the oracle; may wait until it receives.
    """
    for _, (keys, rows) in zip(piece_starts(sharding), rows_from, strict=True):
        with waiting_for("the oracle: to take the model"):
            world.send(keys.tobytes() + rows.tobytes(), ORACLE_RANK)
        note_step()


def receive_model_rows(world: World, topology: Topology, sharding: Sharding, row_width: int) -> Iterator[Rows]:
    """Yield the touched rows of all servers in pieces. The servers call `send_model_rows`.

    Yields:
        Keys, int64, shape (n,), ascending also from piece to piece, and rows, float32, shape (n, row_width).
    Communication: receives from every server.
    """
    for _ in piece_starts(sharding):
        # Local rows [a, b) of all servers are keys [a * S, b * S): merging piece by piece keeps the order.
        yield merge_rows(_receive_piece(world, topology, rank, row_width) for rank in topology.server_ranks)


def piece_starts(sharding: Sharding) -> range:
    """Return the first local row of each piece of a shard; the same at all servers and the oracle."""
    return range(0, sharding.num_local_rows(0), ROWS_PER_PIECE)


def agree_on_outcome(world: World, error: BagpipeError | None) -> BagpipeError | None:
    """Return why the job ended before its end, or None if it did not.

    Args:
        world: All ranks.
        error: The reason at the oracle; None at the other ranks.
    Communication: collective over world.
    """
    content = encode_outcome(error) if world.rank == ORACLE_RANK else None
    with waiting_for("the oracle: the outcome of the job"):
        return decode_outcome(world.broadcast(content))


def encode_outcome(error: BagpipeError | None) -> bytes:
    """Return an error, or None, as bytes, for all ranks to decode."""
    return json.dumps(None if error is None else [type(error).__name__, str(error)]).encode()


def decode_outcome(content: bytes) -> BagpipeError | None:
    """Return the error that `encode_outcome` was given. An unknown class of errors becomes BagpipeError."""
    outcome = json.loads(content)
    if outcome is None:
        return None
    name, text = outcome
    kind = getattr(errors, name, BagpipeError)
    is_known = isinstance(kind, type) and issubclass(kind, BagpipeError)
    return (kind if is_known else BagpipeError)(text)


def _receive_piece(world: World, topology: Topology, rank: int, row_width: int) -> Rows:
    with waiting_for(f"{topology.name_of(rank)}: its part of the model"):
        message = world.receive(rank)
    note_step()
    num_rows = len(message) // (8 + 4 * row_width)
    keys = np.frombuffer(message, dtype=np.int64, count=num_rows)
    rows = np.frombuffer(message, dtype=np.float32, offset=8 * num_rows).reshape(num_rows, row_width)
    return keys, rows
