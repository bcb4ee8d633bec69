"""The choice of what sums dense gradients, from what the trainers have (offer.py).

Horovod can only serve the trainers that it was started for (horovod_state.py). So without a setting, a later job of the
same processes that has other trainers sums with MPI.

Horovod's thread calls MPI's blocking collectives, which keep a core busy while they wait. Beside a GPU that core is
free. Trainers on CPUs compute on it, so without a setting they sum with MPI.
"""

from __future__ import annotations

from collections.abc import Sequence

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.horovod_state import fits_horovod
from bagpipe_hpc.trainer.offer import TrainerOffer, first_fault

ON_CPU = "no GPU, and Horovod's thread would take a core from computing"


def choose_backend(setting: str | None, offers: Sequence[TrainerOffer]) -> tuple[str, str]:
    """Return the backend of a job, and a line that says why, for the user.

    Args:
        setting: The setting dense.backend.
        offers: What each trainer has, by trainer rank.
    Raises:
        PlatformError: the settings ask for a backend that not all trainers have.
    """
    if len(offers) == 1:
        return "none", "dense gradients: one trainer has nothing to sum"
    faults = {"horovod": _fault_of_horovod(offers), "nccl": first_fault([offer.nccl for offer in offers]), "mpi": ""}
    if setting is None:
        why = faults["horovod"] or first_fault(["" if offer.has_gpu else ON_CPU for offer in offers])
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


def _fault_of_horovod(offers: Sequence[TrainerOffer]) -> str:
    fault = first_fault([offer.horovod for offer in offers])
    if fault or fits_horovod(tuple(offer.rank for offer in offers), {offer.horovod_ranks for offer in offers}):
        return fault
    return "Horovod serves other trainers of an earlier job of these processes"
