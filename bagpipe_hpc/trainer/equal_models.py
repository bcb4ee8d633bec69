"""A model of the user's own on all trainers: that it is the same."""

from __future__ import annotations

from mpi4py import MPI

from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.trainer.dense_gradients import dense_parameters
from bagpipe_hpc.trainer.own_model import Model


def require_equal_parameters(trainers: MPI.Intracomm, model: Model, factory: str) -> None:
    """See that all trainers have built the same model.

    Raises:
        OwnModelError: one has not.
    Communication: collective over the trainers.
    """
    digest = ModelDigest()
    digest.add_dense(dense_parameters(model))
    digests = trainers.allgather(digest.hexdigest())
    if digests[trainers.rank] != digests[0]:
        raise OwnModelError(
            f"model.factory = {factory!r} made other parameters here than at trainer 0: initialise them from torch's "
            "generator, which has been seeded, and not from numpy's, time, the rank or the order of a set"
        )
