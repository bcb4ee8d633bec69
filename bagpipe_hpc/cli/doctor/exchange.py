"""Check of the exchange of rows between trainers: through host memory, or from GPU to GPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from bagpipe_hpc.cli.doctor.allocation import topology_of
from bagpipe_hpc.cli.doctor.finding import Check, Outcome, Status, World


def exchange(world: World) -> Outcome:
    """Let the first rank of each host try whether MPI reads and writes the memory of GPUs."""
    return _examined(world, range(world.ranks.size))


def exchange_of_trainers(world: World) -> Outcome:
    """Let the first trainer of each host try it: oracle and servers may be on hosts without GPUs."""
    return _examined(world, topology_of(world).trainer_ranks)


def _examined(world: World, users: Sequence[int]) -> Outcome:
    from bagpipe_hpc.config import Config
    from bagpipe_hpc.trainer.exchange_choice import try_exchange
    from bagpipe_hpc.transport.collectives import all_gather_json

    comm = world.ranks
    hosts: list[str] = all_gather_json(comm, platform.node())
    tries = {hosts[rank]: rank for rank in reversed(users)}
    mine = try_exchange(Config()) if comm.rank in tries.values() else ""
    faults: list[str] = all_gather_json(comm, mine)
    return judge_exchange({host: faults[rank] for host, rank in sorted(tries.items())})


def judge_exchange(faults: dict[str, str]) -> Outcome:
    """Say how a job exchanges rows. Warn if the hosts differ.

    Args:
        faults: Why MPI cannot read and write the memory of the GPU of each host; empty texts if it can.
    """
    broken = [host for host, fault in faults.items() if fault]
    if not broken:
        return Status.OK, "MPI reads and writes the memory of GPUs: a job exchanges rows from GPU to GPU", ""
    told = f"a job exchanges rows through host memory: {faults[broken[0]]}"
    if len(broken) == len(faults):
        return Status.OK, told, ""
    return Status.WARN, f"{told} (at {len(broken)} of {len(faults)} hosts, first at {broken[0]})", _CURE


_CURE = "set up all hosts of trainers in the same way, with the same MPI"
EXCHANGE = Check("Exchange of rows", exchange, "set training.exchange to host")
EXCHANGE_OF_TRAINERS = Check(EXCHANGE.name, exchange_of_trainers, EXCHANGE.cure)
