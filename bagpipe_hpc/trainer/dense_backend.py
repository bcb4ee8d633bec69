"""The choice of what sums dense gradients, from what the trainers have. It imports neither torch nor Horovod early.

    each trainer   `DenseOffer.of_this_rank`: what it has, sent to the oracle with its host name
    oracle         `choose_backend`: one backend for all trainers, or an error, before training
    each trainer   `make_sum.py` makes the sum that the oracle has chosen

The state of Horovod belongs to the process. The first job starts Horovod for its trainers, and no later job of the same
processes can start it for other trainers: if some ranks run it already, the start waits forever on the others, and a
start after a shutdown crashes. So without a setting, a later job that has other trainers sums with MPI.

Horovod's thread calls MPI's blocking collectives, which keep a core busy while they wait. Beside a GPU that core is
free. Trainers on CPUs compute on it, so without a setting they sum with MPI.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device.visible import offers_gpu
from bagpipe_hpc.trainer.execution_fault import CURES, fault_of_execution

Ranks = tuple[int, ...]

NOT_INSTALLED = "Horovod is not installed"
ON_CPU = "no GPU, and Horovod's thread would take a core from computing"

# The trainers that this process has started Horovod with, each by its rank in the launch; None before Horovod starts.
_horovod_ranks: Ranks | None = None


def note_horovod_ranks(ranks: Ranks) -> None:
    """Note that this process has started Horovod with these trainers."""
    global _horovod_ranks
    _horovod_ranks = ranks


def horovod_ranks() -> Ranks | None:
    """Return the trainers that this process has started Horovod with, or None."""
    return _horovod_ranks


@dataclass(frozen=True)
class DenseOffer:
    """What one trainer has for sums, to compute with and to exchange rows.

    Args:
        rank: Its rank in the launch.
        horovod: Why Horovod cannot be used here; empty if it can.
        nccl: Why NCCL cannot be used here; empty if it can. It is only looked at if the settings ask for it.
        horovod_ranks: The trainers that its process has started Horovod with; None if it has not.
        has_gpu: Whether its host offers it a GPU, and the settings do not forbid to use it.
        gpu: Why it cannot use a GPU; empty if it can. It is only looked at if the settings ask for a GPU.
        exchange: Why MPI cannot read and write the memory of its GPU; empty if it can, or if another trainer tries it.
        execution: Why it cannot run the model as training.execution says; empty if it can.
    """

    rank: int
    horovod: str = ""
    nccl: str = ""
    horovod_ranks: Ranks | None = None
    has_gpu: bool = False
    gpu: str = ""
    exchange: str = ""
    execution: str = ""

    @classmethod
    def of_this_rank(cls, rank: int, config: Config, exchange: str = "") -> DenseOffer:
        """Return what this process has.

        It imports torch, which takes seconds, only if the settings name nccl or gpu or a way to run the model.

        Args:
            rank: Its rank in the launch.
            config: The settings of the job.
            exchange: See DenseOffer.
        """
        device, execution = config.training.device, config.training.execution
        nccl = gpu = fault = ""
        if config.dense.backend == "nccl":
            from bagpipe_hpc.trainer.device.gpus import fault_of_nccl

            nccl = fault_of_nccl()
        if device == "gpu":
            from bagpipe_hpc.trainer.device.choose import fault_of_gpu

            gpu = fault_of_gpu()
        if execution != "eager":
            from bagpipe_hpc.trainer.device.choose import finds_gpu

            fault = fault_of_execution(execution, device != "cpu" and finds_gpu())
        has_gpu = device != "cpu" and offers_gpu()
        return cls(rank, fault_of_horovod(), nccl, _horovod_ranks, has_gpu, gpu, exchange, fault)

    def to_text(self) -> str:
        """Return the offer as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_text(cls, text: str) -> DenseOffer:
        """Return the offer that `to_text` has written."""
        offer = cls(**json.loads(text))
        started = None if offer.horovod_ranks is None else tuple(offer.horovod_ranks)
        return replace(offer, horovod_ranks=started)


def fault_of_horovod() -> str:
    """Return why Horovod cannot be used in this process, without importing it; empty if it can."""
    found = importlib.util.find_spec("horovod")
    if found is None:
        return NOT_INSTALLED
    places = [Path(place) for place in found.submodule_search_locations or ()]
    if not any((place / "torch").is_dir() for place in places):
        return "Horovod is installed without its part for torch"
    return ""


def choose_backend(setting: str | None, offers: Sequence[DenseOffer]) -> tuple[str, str]:
    """Return the backend of a job, and a line that says why, for the user.

    Args:
        setting: The setting dense.backend.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: the settings ask for a backend that not all trainers have.
    """
    if len(offers) == 1:
        return "none", "dense gradients: one trainer has nothing to sum"
    faults = {"horovod": _fault_of_horovod(offers), "nccl": _fault([offer.nccl for offer in offers]), "mpi": ""}
    if setting is None:
        why = faults["horovod"] or _fault(["" if offer.has_gpu else ON_CPU for offer in offers])
        chosen, reason = ("mpi", f" ({why})") if why else ("horovod", "")
        return chosen, f"dense gradients: summed by {chosen}{reason}"
    if faults[setting]:
        others = ["mpi"] if setting == "horovod" or faults["horovod"] else ["horovod", "mpi"]
        cures = {
            "horovod": "run env/setup.sh without --without-horovod on all nodes",
            "nccl": "start trainers where each has a GPU, with a build of torch for it",
        }
        raise PlatformError(
            f"dense.backend = {setting!r}: {faults[setting]}; this job has {' and '.join(others)}: set dense.backend "
            f"to {' or '.join(others)}, leave it out, or {cures[setting]}"
        )
    return setting, f"dense gradients: summed by {setting}"


def check_gpus(setting: str, offers: Sequence[DenseOffer]) -> None:
    """Check that every trainer has a GPU if the settings ask for one.

    Args:
        setting: The setting training.device.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: a trainer has none. The message names it.
    """
    if setting == "gpu" and (fault := _fault([offer.gpu for offer in offers])):
        raise PlatformError(
            f"training.device = 'gpu': {fault}; set training.device to auto or cpu, ask the scheduler for a GPU per "
            "trainer, or install a build of torch for this GPU (`bagpipe doctor` shows what torch finds)"
        )


def check_execution(setting: str, offers: Sequence[DenseOffer]) -> None:
    """Check that every trainer can run the model as the settings say.

    Args:
        setting: The setting training.execution.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: a trainer cannot. The message names it, and says what it lacks.
    """
    if fault := _fault([offer.execution for offer in offers]):
        raise PlatformError(f"training.execution = {setting!r}: {fault}; {CURES[setting]}")


def _fault_of_horovod(offers: Sequence[DenseOffer]) -> str:
    fault = _fault([offer.horovod for offer in offers])
    if fault or fits_horovod(tuple(offer.rank for offer in offers), {offer.horovod_ranks for offer in offers}):
        return fault
    return "Horovod serves other trainers of an earlier job of these processes"


def _fault(faults: Sequence[str]) -> str:
    """Return the first fault, and which trainers have one; empty if none has."""
    broken = [trainer for trainer, fault in enumerate(faults) if fault]
    if not broken:
        return ""
    where = "" if len(broken) == len(faults) else f" at {len(broken)} of {len(faults)} trainers, first at {broken[0]}"
    return faults[broken[0]] + where


def fits_horovod(trainers: Ranks, started: set[Ranks | None]) -> bool:
    """Return whether Horovod can sum over these trainers.

    Args:
        trainers: The rank of each trainer in the launch.
        started: The sets of trainers that these ranks have started Horovod with; None for a rank that has not.
    """
    return started in ({None}, {trainers})
