"""What each trainer has, which the oracle asks before a job starts, and checks of it. It imports no torch early.

each trainer   `TrainerOffer.of_this_rank`: what it has, sent to the oracle with its host name
oracle         `check_gpus`, `check_execution`, `choose_backend` (dense_backend.py), `choose_exchange`
               (exchange_choice.py): one choice for all trainers, or an error, before training
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device.visible import offers_gpu
from bagpipe_hpc.trainer.execution_fault import CURES, fault_of_execution
from bagpipe_hpc.trainer.horovod_state import Ranks, fault_of_horovod, horovod_ranks


@dataclass(frozen=True)
class TrainerOffer:
    """What one trainer has to compute with, to exchange rows and to sum dense gradients.

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
    def of_this_rank(cls, rank: int, config: Config, exchange: str = "") -> TrainerOffer:
        """Return what this process has.

        It imports torch, which takes seconds, only if the settings name nccl or gpu or a way to run the model.

        Args:
            rank: Its rank in the launch.
            config: The settings of the job.
            exchange: See TrainerOffer.
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
        return cls(rank, fault_of_horovod(), nccl, horovod_ranks(), has_gpu, gpu, exchange, fault)

    def to_text(self) -> str:
        """Return the offer as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_text(cls, text: str) -> TrainerOffer:
        """Return the offer that `to_text` has written."""
        offer = cls(**json.loads(text))
        started = None if offer.horovod_ranks is None else tuple(offer.horovod_ranks)
        return replace(offer, horovod_ranks=started)


def check_gpus(setting: str, offers: Sequence[TrainerOffer]) -> None:
    """Check that every trainer has a GPU if the settings ask for one.

    Args:
        setting: The setting training.device.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: a trainer has none. The message names it.
    """
    if setting == "gpu" and (fault := first_fault([offer.gpu for offer in offers])):
        raise PlatformError(
            f"training.device = 'gpu': {fault}; set training.device to auto or cpu, ask the scheduler for a GPU per "
            "trainer, or install a build of torch for this GPU (`bagpipe doctor` shows what torch finds)"
        )


def check_execution(setting: str, offers: Sequence[TrainerOffer]) -> None:
    """Check that every trainer can run the model as the settings say.

    Args:
        setting: The setting training.execution.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: a trainer cannot. The message names it, and says what it lacks.
    """
    if fault := first_fault([offer.execution for offer in offers]):
        raise PlatformError(f"training.execution = {setting!r}: {fault}; {CURES[setting]}")


def first_fault(faults: Sequence[str]) -> str:
    """Return the first fault, and which trainers have one; empty if none has.

    Args:
        faults: Of each trainer, by trainer rank; empty if it has none.
    """
    broken = [trainer for trainer, fault in enumerate(faults) if fault]
    if not broken:
        return ""
    where = "" if len(broken) == len(faults) else f" at {len(broken)} of {len(faults)} trainers, first at {broken[0]}"
    return faults[broken[0]] + where
