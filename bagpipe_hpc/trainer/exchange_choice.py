"""The choice of how rows and gradients get from one trainer to another: through host memory, or from GPU to GPU.

    first trainer of each host   `try_exchange`: whether MPI reads and writes the memory of its GPU, sent to the oracle
    oracle                       `choose_exchange`: one way for all trainers, or an error, before training

The other trainers of a host have the same MPI and the same driver. This module imports neither torch nor MPI.
"""

from __future__ import annotations

from collections.abc import Sequence

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device.child_trial import fault_of_exposure
from bagpipe_hpc.trainer.device.visible import offers_gpu
from bagpipe_hpc.trainer.offer import TrainerOffer

ON_CPU = "trainers compute on the CPU"
BY_SETTING = "training.exchange is host"
NO_GPU = "no GPU"
HOST, DEVICE, NONE = "host", "device", "none"  # the values of JobSpec.exchange
OF_DEVICE = "rows between trainers: from GPU to GPU by MPI"
OF_HOST = "rows between trainers: through host memory"


def try_exchange(config: Config) -> str:
    """Return why MPI cannot read and write the memory of this trainer's GPU; empty if it can.

    With a GPU this takes seconds. Without one, or if the settings do not ask for it, nothing is tried.
    """
    if config.training.device == "cpu":
        return ON_CPU
    if config.training.exchange == HOST:
        return BY_SETTING
    return fault_of_exposure() if offers_gpu() else NO_GPU


def choose_exchange(setting: str, offers: Sequence[TrainerOffer]) -> tuple[str, str]:
    """Return how rows get from trainer to trainer (host, device or none), and a line that says why, for the user.

    Args:
        setting: The setting training.exchange.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: the settings ask for device, and some trainer cannot.
    """
    if len(offers) == 1:
        return NONE, "rows between trainers: one trainer has nobody to send rows to"
    fault = _fault(offers)
    if not fault:
        return DEVICE, OF_DEVICE
    if setting == DEVICE:
        raise PlatformError(
            f"training.exchange = 'device': {fault}; set training.exchange to auto or host, or start trainers where "
            "each has a GPU, with an MPI that is built for the memory of GPUs (`bagpipe doctor` tries it)"
        )
    return HOST, f"{OF_HOST} ({fault})"


def _fault(offers: Sequence[TrainerOffer]) -> str:
    for trainer, offer in enumerate(offers):
        if fault := offer.exchange or ("" if offer.has_gpu else NO_GPU):
            return fault if fault in (ON_CPU, BY_SETTING) else f"trainer {trainer}: {fault}"
    return ""
