"""The digest of the trained model at the end of a job, and the check that the model is finite."""

from __future__ import annotations

from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.protocol.handshakes import receive_dense_parameters, receive_model_rows
from bagpipe_hpc.protocol.ports import World
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.finite import FiniteRows, require_finite_parameters
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.topology import Topology


def collect_digest(world: World, spec: JobSpec, topology: Topology, num_trained: int) -> str:
    """Receive the model from trainer 0 and the servers, and return its digest.

    Args:
        world: Connects all ranks.
        spec: The job.
        topology: The roles of the ranks.
        num_trained: Training iterations of the whole job.
    Raises:
        DivergedError: a value is not finite. The error is raised after all rows have been received.
    Communication: receives from trainer 0 and every server.
    """
    digest, diverged = ModelDigest(), None
    parameters = receive_dense_parameters(world, topology)
    digest.add_dense(parameters)
    finite = FiniteRows(spec.config, spec.schema)
    sharding = Sharding(KeySpace(spec.num_embeddings).num_keys, topology.num_servers)
    for keys, rows in receive_model_rows(world, topology, sharding, row_width(spec.config)):
        digest.add_rows(keys, rows)
        try:
            finite.require(num_trained, keys, rows)
        except DivergedError as error:
            diverged = diverged or error
    require_finite_parameters(num_trained, parameters)
    if diverged is not None:
        raise diverged
    return digest.hexdigest()
