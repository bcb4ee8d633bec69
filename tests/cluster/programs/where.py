"""In place of `bagpipe`: where the ranks of a job are and which GPU each trainer computes on, as JSON in the run
directory.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from mpi4py import MPI

from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.communicators import ranks_of_host, split_world


def main(run_dir: Path, num_servers: int) -> None:
    world = MPI.COMM_WORLD
    topology = Topology(world.size, num_servers)
    comms = split_world(world, topology)
    gpu = None
    if world.rank in topology.trainer_ranks:  # by the rule of trainer/device/choose.py, which has no GPU here
        visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        gpu = visible[ranks_of_host(comms.trainers).rank % len(visible)]
    ranks = world.gather((platform.node(), gpu))
    if world.rank == 0:
        (run_dir / "where.json").write_text(json.dumps(ranks))
        (run_dir / "DONE").touch()


if __name__ == "__main__":
    (servers,) = [word for word in sys.argv if word.startswith("roles.servers=")]
    main(Path(sys.argv[sys.argv.index("--run-dir") + 1]), int(servers.partition("=")[2]))
