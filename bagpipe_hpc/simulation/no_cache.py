"""Parameter servers without caches: every trainer fetches each row of its share, and sends a gradient for it.

This is what HET and BagPipe compare themselves with.
"""

from __future__ import annotations

from bagpipe_hpc.simulation.accesses import Accesses
from bagpipe_hpc.simulation.traffic import ID_BYTES, Flow, Traffic


def play_no_cache(accesses: Accesses, num_servers: int, row_bytes: int) -> Traffic:
    """Return what the design moves. A trainer sends the ids of the rows that it fetches, and those of the gradients.

    Args:
        accesses: The stream.
        num_servers: S; key k is on server k mod S.
        row_bytes: Bytes of a row.
    """
    pairs = accesses.pair_counts.astype(float)
    num_pairs = len(accesses.pairs)
    return Traffic(
        design="no-cache",
        num_pairs=num_pairs,
        num_local=0,
        rows_fetched=num_pairs,
        rows_written=num_pairs,
        rows_exchanged=0,
        critical=Flow(row_bytes * pairs, (row_bytes + 2 * ID_BYTES) * pairs),
        late=Flow.none(*pairs.shape),
        server_bytes=(row_bytes + 2 * ID_BYTES) * accesses.busiest_owner(num_servers),
        servers_are_critical=True,
        rounds=2,
    )
