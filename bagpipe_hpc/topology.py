"""Which rank plays which role. Pure: computed from integers, without MPI.

Ranks are those of the job's world, which `launch/role_placement.py` may have reordered compared with the launcher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bagpipe_hpc.errors import TopologyError


class Role(Enum):
    """What a rank does for the whole job."""

    ORACLE = "oracle"
    SERVER = "server"
    TRAINER = "trainer"


ORACLE_RANK = 0


@dataclass(frozen=True)
class Topology:
    """Rank 0 is the oracle, ranks 1..S are embedding servers, the others are trainers.

    Args:
        world_size: Number of ranks in the job.
        num_servers: Number of embedding servers, S; at least 1.
    Raises:
        TopologyError: There are too few ranks for one trainer, or num_servers is below 1.
    """

    world_size: int
    num_servers: int

    def __post_init__(self) -> None:
        if self.num_servers < 1:
            raise TopologyError(f"roles.servers is {self.num_servers}; at least 1 embedding server is needed")
        needed = 1 + self.num_servers + 1
        if self.world_size < needed:
            fewer = ", or lower roles.servers" if self.num_servers > 1 else ""
            alone = (
                "; bagpipe train --local (in Python: local=True) runs all of them in one process"
                if self.world_size == 1
                else ""
            )
            raise TopologyError(
                f"the job has {self.world_size} rank{'s' if self.world_size > 1 else ''}, but 1 oracle + "
                f"{self.num_servers} embedding server{'s' if self.num_servers > 1 else ''} (roles.servers) + at least "
                f"1 trainer need {needed}: start it with `mpirun -n {needed}` or more ranks{fewer}{alone}"
            )

    @property
    def num_trainers(self) -> int:
        """Number of trainers, T."""
        return self.world_size - 1 - self.num_servers

    @property
    def server_ranks(self) -> range:
        """World ranks of the servers, in order of server index."""
        return range(1, 1 + self.num_servers)

    @property
    def trainer_ranks(self) -> range:
        """World ranks of the trainers, in order of trainer rank."""
        return range(1 + self.num_servers, self.world_size)

    def role_of(self, world_rank: int) -> Role:
        """Return the role of a world rank."""
        if world_rank == ORACLE_RANK:
            return Role.ORACLE
        return Role.SERVER if world_rank in self.server_ranks else Role.TRAINER

    def name_of(self, world_rank: int) -> str:
        """Return the name of a rank for messages: its role, its index within the role, its world rank."""
        role = self.role_of(world_rank)
        if role is Role.ORACLE:
            return f"oracle (rank {world_rank})"
        ranks = self.server_ranks if role is Role.SERVER else self.trainer_ranks
        return f"{role.value} {ranks.index(world_rank)} (rank {world_rank})"


def trainers_for(num_blocks: int) -> str:
    """Return the numbers of trainers that can compute equally many of these blocks, a power of two, for a message."""
    return ", ".join(str(1 << power) for power in range(num_blocks.bit_length()))
