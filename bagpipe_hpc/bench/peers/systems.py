"""The systems that `bagpipe bench peers` compares. To add a variant of bagpipe_hpc, add a line with its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Final

from bagpipe_hpc.errors import ConfigError

INSTALL: Final = "python -m pip install --no-deps -r env/requirements/peers.txt"


class Crew(StrEnum):
    """The processes that train a system. Peers of one crew use the same processes, one after the other."""

    RANKS = "ranks"  # the ranks of this program: a job of bagpipe_hpc
    ONE = "one"  # one process with the threads of all trainers
    TORCH = "torch"  # one process per trainer
    TORCHREC = "torchrec"  # the same, with TorchRec


@dataclass(frozen=True)
class System:
    """One system.

    Args:
        name: Its name in options and files.
        title: Its name in the table and the picture.
        crew: The processes that train it.
        settings: Of bagpipe_hpc: settings in addition to those of the case.
        is_exact: Whether it computes the same as plain PyTorch, apart from the order of sums.
        is_default: Whether it runs without being asked for.
    """

    name: str
    title: str
    crew: Crew = Crew.RANKS
    settings: tuple[str, ...] = ()
    is_exact: bool = True
    is_default: bool = True


LOCALITY = "oracle.placement=locality"

SYSTEMS: Final = (
    System("plain", "PyTorch, 1 process", Crew.ONE),
    System("ddp", "PyTorch DDP, replicated tables", Crew.TORCH),
    System("hybrid", "PyTorch, all-to-all", Crew.TORCH),
    System("torchrec-table", "TorchRec table-wise", Crew.TORCHREC),
    System("torchrec-table-pipeline", "TorchRec table-wise, pipeline", Crew.TORCHREC),
    System("torchrec-row", "TorchRec row-wise", Crew.TORCHREC),
    System("torchrec-row-pipeline", "TorchRec row-wise, pipeline", Crew.TORCHREC),
    System("synchronous", "bagpipe_hpc synchronous", settings=("mode=synchronous",)),
    System("contiguous", "bagpipe_hpc"),
    System("locality", "bagpipe_hpc locality", settings=(LOCALITY,)),
    System("wire", "bagpipe_hpc locality, 16 bits", settings=(LOCALITY, "training.wire_dtype=float16"), is_exact=False),
    # Horovod's thread goes on in the processes of the ranks, so this one must not run beside others.
    System("horovod", "bagpipe_hpc locality, Horovod", settings=(LOCALITY, "dense.backend=horovod"), is_default=False),
)


def systems_named(names: str) -> list[System]:
    """Return the systems of a list of names, in the order of SYSTEMS.

    Args:
        names: Separated by commas; empty: the systems that run by default.
    Raises:
        ConfigError: Names a system that does not exist.
    """
    chosen = [name for name in names.split(",") if name]
    known = [system.name for system in SYSTEMS]
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--systems names {name!r}; the systems are {', '.join(known)}")
    return [system for system in SYSTEMS if system.name in chosen or (not chosen and system.is_default)]


def why_absent(system: System, num_hosts: int, is_installed: Callable[[str], object] = find_spec) -> str | None:
    """Return why this machine cannot run a system; None if it can.

    Args:
        system: The system.
        num_hosts: The number of hosts with trainers.
        is_installed: Whether this Python has a package.
    """
    if system.crew is Crew.ONE and num_hosts > 1:
        return f"one process cannot use the threads of {num_hosts} hosts"
    if system.crew is Crew.TORCHREC and not (is_installed("torchrec") and is_installed("fbgemm_gpu")):
        return f"TorchRec is not installed; install it with `{INSTALL}`"
    return None
