"""Work of one rank of a benchmark, while the others wait."""

from __future__ import annotations

from collections.abc import Callable

from bagpipe_hpc.errors import BagpipeError, ConfigError
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import all_gather_json


def at_rank_0(world: Comm, work: Callable[[], object]) -> None:
    """Call a function at rank 0, and return at all ranks when it has returned.

    Raises:
        ConfigError: The function raised a BagpipeError; the same at every rank.
    Communication: collective over world.
    """
    fault = ""
    if world.rank == 0:
        try:
            work()
        except BagpipeError as error:
            fault = str(error)
    if fault := all_gather_json(world, fault)[0]:
        raise ConfigError(fault)
