"""What the RMA benchmark moves: number and size of rows, and the plans for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ConfigError, TopologyError
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.trainer.device.names import DeviceName

Int64Array = NDArray[np.int64]


class Direction(StrEnum):
    """The direction in which rows move."""

    FETCH = "fetch"
    WRITE_BACK = "write_back"


class RmaTransport(StrEnum):
    """How rows move: the package's two transports, and one transfer per row, which only this benchmark has."""

    STAGED = "staged"
    DIRECT = "direct"
    PER_ROW = "per-row"


@dataclass(frozen=True)
class RmaTraffic:
    """Every trainer fetches random rows in every iteration and, in separate passes, writes rows back.

    Args:
        servers: Number of servers, S: ranks 0..S-1.
        rows: Rows of one trainer in one iteration, over all servers.
        dim: float32 columns of a row.
        table_rows: Rows of the table, over all servers.
        iterations: Iterations of one timed pass.
        warm_up: Iterations of the untimed pass before.
        rounds: Timed passes of everything, alternating; the results are medians.
        prefetch_depth: Servers gather stages up to this number of iterations ahead (P).
        transports: Transports to measure.
        num_ranks: Number of ranks, S + T.
        device: Where the rows of trainers lie. If it is a GPU, they go up after each fetch, and come down before they
            are written back.
    Raises:
        ConfigError: An option is out of range or contradicts another; names both.
        TopologyError: No rank is left for a trainer.
    """

    servers: int = 1
    rows: int = 16_384
    dim: int = 64
    table_rows: int = 1_000_000
    iterations: int = 40
    warm_up: int = 5
    rounds: int = 5
    prefetch_depth: int = 4
    transports: tuple[RmaTransport, ...] = tuple(RmaTransport)
    num_ranks: int = 2
    device: DeviceName = "cpu"

    def __post_init__(self) -> None:
        for name in ("servers", "rows", "dim", "iterations", "warm_up", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        if self.prefetch_depth < 0:
            raise ConfigError(f"--prefetch-depth is {self.prefetch_depth}; give 0 or more")
        if self.warm_up > self.iterations:
            raise ConfigError(f"--warm-up is {self.warm_up}, --iterations {self.iterations}: give at most as many")
        if self.rows % self.servers:
            raise ConfigError(f"--rows is {self.rows}, --servers {self.servers}: give a multiple of --servers")
        if self.num_trainers < 1:
            raise TopologyError(
                f"there are {self.num_ranks} ranks; --servers {self.servers} and at least 1 trainer need "
                f"{self.servers + 1}: start with `mpirun -n {self.servers + 1}` or more"
            )
        if self.table_rows < self.num_trainers * self.rows:
            raise ConfigError(
                f"--table-rows is {self.table_rows}, but {self.num_trainers} trainers move "
                f"{self.num_trainers * self.rows} different rows at once: raise --table-rows or lower --rows"
            )

    @property
    def num_trainers(self) -> int:
        """Number of trainers, T: the ranks that are not servers."""
        return self.num_ranks - self.servers

    @property
    def num_stages(self) -> int:
        """Number of stages of a ring, P + 1."""
        return self.prefetch_depth + 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return 4 * self.dim

    @property
    def rows_per_server(self) -> int:
        """Rows that move between one trainer and one server in an iteration."""
        return self.rows // self.servers

    @cached_property
    def sharding(self) -> Sharding:
        """The mapping of the table's rows to servers."""
        return Sharding(self.table_rows, self.servers)

    @property
    def key_space(self) -> KeySpace:
        """The key space, which has one table."""
        return KeySpace((self.table_rows,))


def parse_transports(names: str) -> tuple[RmaTransport, ...]:
    """Return the transports of a list such as staged,direct.

    Raises:
        ConfigError: A transport is unknown.
    """
    try:
        return tuple(dict.fromkeys(RmaTransport(name.strip()) for name in names.split(",")))
    except ValueError:
        allowed = ", ".join(RmaTransport)
        raise ConfigError(f"--transport is {names!r}; allowed, separated by commas: {allowed}") from None


def local_rows(traffic: RmaTraffic, server: int, iteration: int) -> Int64Array:
    """Return a server's rows that move in an iteration, int64: distinct, random, by trainer; equal on all ranks."""
    random = np.random.default_rng((iteration, server))
    count = traffic.num_trainers * traffic.rows_per_server
    return random.choice(traffic.sharding.num_local_rows(server), count, replace=False)


def server_plan(traffic: RmaTraffic, server: int, iteration: int, direction: Direction) -> ServerPlan:
    """Return a server's plan of an iteration that moves rows in only one direction."""
    moving: dict[str, NDArray[Any]] = {
        "rows": local_rows(traffic, server, iteration),
        "counts": np.full(traffic.num_trainers, traffic.rows_per_server, dtype=np.int32),
        "offsets": np.array([_offset(traffic, iteration, t) for t in range(traffic.num_trainers)]),
    }
    return ServerPlan(stream_position=iteration, **_both_ways(moving, direction), **_ring_rows(traffic))


def trainer_plan(traffic: RmaTraffic, trainer: int, iteration: int, direction: Direction) -> TrainerPlan:
    """Return a trainer's plan of such an iteration. Fields that the transport does not read are None."""
    moving: dict[str, NDArray[Any]] = {
        "counts": np.full(traffic.servers, traffic.rows_per_server, dtype=np.int32),
        "offsets": np.full(traffic.servers, _offset(traffic, iteration, trainer)),
    }
    parts: dict[str, Any] = dict.fromkeys(field.name for field in fields(TrainerPlan))
    parts |= {"stream_position": iteration} | _both_ways(moving, direction) | _ring_rows(traffic)
    return TrainerPlan(**parts)


def _both_ways(moving: dict[str, NDArray[Any]], direction: Direction) -> dict[str, Any]:
    """Return the fields of a plan: arrays for the direction in which rows move, and empty ones for the other."""
    still = {name: np.zeros_like(array[:0] if name == "rows" else array) for name, array in moving.items()}
    return {
        f"{way}_{name}": array for way in Direction for name, array in (moving if way is direction else still).items()
    }


def _ring_rows(traffic: RmaTraffic) -> dict[str, Any]:
    return dict.fromkeys([f"{way}_ring_rows" for way in Direction], traffic.num_trainers * traffic.rows_per_server)


def _offset(traffic: RmaTraffic, iteration: int, trainer: int) -> int:
    """Return where a trainer's stage of an iteration begins in each server's ring."""
    return (iteration % traffic.num_stages * traffic.num_trainers + trainer) * traffic.rows_per_server
