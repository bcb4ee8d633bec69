"""What each rank must know of the lines before its own: a part of what earlier ranks have noted, by key.

Each key belongs to one rank. All ranks send to it what they have noted of the key in their own lines, and it answers
each of them with what the ranks before it have noted. Answers are only about keys that occur in the lines of the asking
rank, so the memory of a rank grows with these keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.data.importing.history_store import HistoryStore
from bagpipe_hpc.data.importing.newest_order import NewestOrder
from bagpipe_hpc.data.importing.ranks import Ranks
from bagpipe_hpc.sharding import Int64Array

Convert = Callable[[Int64Array], Int64Array]
_ROUND_BYTES = 64 << 20  # that all ranks together send in one round


def order_before(own: NewestOrder, ranks: Ranks) -> NewestOrder:
    """Return the newest order of each key in the lines of earlier ranks.

    Args:
        own: The newest orders in the lines of this rank.
    Communication: collective.
    """
    keys, orders = own.items()
    place = _by_owner(keys, ranks.size)
    received = zip(_send(keys, place, ranks), _send(orders, place, ranks), strict=True)
    earlier = NewestOrder()
    answers = ranks.alltoall([earlier.add(*noted) for noted in received])
    before, start = np.concatenate(answers), NewestOrder()
    known = before > -np.inf
    start.add(np.concatenate([keys[mine] for mine in place])[known], before[known])
    return start


def entries_before(own: HistoryStore, ranks: Ranks, convert: Sequence[Convert]) -> HistoryStore:
    """Return the newest entries of each key in the lines of earlier ranks.

    Args:
        own: The newest entries in the lines of this rank.
        convert: Conversions of the first numbers of each entry.
    Communication: collective.
    """
    keys = own.keys
    num_bytes = 8 * own.width * int(own.read(keys)[0].sum())
    num_rounds = 1 + int(np.sum(np.concatenate(ranks.allgather(np.array([num_bytes]))))) // _ROUND_BYTES
    start = HistoryStore(own.width, own.max_length)
    turn = keys // ranks.size % num_rounds
    for number in range(num_rounds):
        _exchange_entries(own, keys[turn == number], start, ranks, convert)
    return start


def _exchange_entries(
    own: HistoryStore, keys: Int64Array, start: HistoryStore, ranks: Ranks, convert: Sequence[Convert]
) -> None:
    """Add the entries that earlier ranks have of some keys to `start`."""
    pieces = [keys[mine] for mine in _by_owner(keys, ranks.size)]
    earlier, answers = HistoryStore(own.width, own.max_length), []
    noted = [own.read(piece) for piece in pieces]
    for asked, (lengths, entries) in zip(ranks.alltoall(pieces), _swap(noted, own.width, ranks), strict=True):
        answers.append(earlier.read(asked))
        _add(earlier, asked, lengths, entries)
    for piece, (lengths, entries) in zip(pieces, _swap(answers, own.width, ranks), strict=True):
        for column, conversion in enumerate(convert):
            entries[column] = conversion(entries[column])
        _add(start, piece, lengths, entries)


def _swap(pieces: list[tuple[Int64Array, Int64Array]], width: int, ranks: Ranks) -> list[tuple[Int64Array, Int64Array]]:
    """Send the lengths and entries of piece r to rank r; return those for this rank."""
    lengths = ranks.alltoall([lengths for lengths, _ in pieces])
    entries = ranks.alltoall([entries.ravel() for _, entries in pieces])
    return [(number, flat.reshape(width, -1)) for number, flat in zip(lengths, entries, strict=True)]


def _add(store: HistoryStore, keys: Int64Array, lengths: Int64Array, entries: Int64Array) -> None:
    repeated = np.repeat(keys, lengths)
    store.add(repeated, np.ones(len(repeated), np.bool_), entries)


def _by_owner(keys: Int64Array, num_ranks: int) -> list[NDArray[np.intp]]:
    """Return where the keys of each rank are."""
    owners = keys % num_ranks
    return [np.flatnonzero(owners == rank) for rank in range(num_ranks)]


def _send(values: NDArray[Any], place: list[NDArray[np.intp]], ranks: Ranks) -> list[NDArray[Any]]:
    return ranks.alltoall([values[mine] for mine in place])
