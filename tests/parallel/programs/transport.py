"""On all ranks: play every scenario of the contract through both MPI transports.

    mpirun -n S+T python -m mpi4py transport.py S

Servers first, then trainers, as on a job's communicator of rows.
"""

from __future__ import annotations

import sys

from mpi4py import MPI

from bagpipe_hpc.transport.direct import DirectServer, DirectTrainer
from bagpipe_hpc.transport.staged import StagedServer, StagedTrainer
from bagpipe_hpc.transport.window import RowWindow
from tests.contract import SCENARIOS, Play, play_server, play_trainer


def run_server(comm: MPI.Intracomm, play: Play, num_servers: int, transport: str) -> None:
    end: DirectServer | StagedServer
    if transport == "direct":
        window = RowWindow(comm, *play.shard_shape(comm.rank))
        store = play.new_store(comm.rank, window.memory)
        end = DirectServer(comm, num_servers, window, store)
    else:
        store = play.new_store(comm.rank)
        end = StagedServer(comm, num_servers, play.scenario.prefetch_depth + 1, store)
    play_server(play, end, store)
    del store
    end.close()


def run_trainer(comm: MPI.Intracomm, play: Play, num_servers: int, transport: str, run_ahead: bool) -> None:
    width = play.scenario.row_width
    end: DirectTrainer | StagedTrainer
    if transport == "direct":
        end = DirectTrainer(comm, num_servers, RowWindow(comm, 0, width))
    else:
        end = StagedTrainer(comm, num_servers, play.scenario.prefetch_depth + 1, width)
    play_trainer(play, end, comm.rank - num_servers, run_ahead)
    end.close()


def main() -> None:
    comm, num_servers = MPI.COMM_WORLD, int(sys.argv[1])
    for scenario in SCENARIOS:
        play = Play(scenario, comm.size - num_servers, num_servers)
        for transport, run_ahead in (("staged", False), ("staged", True), ("direct", True)):
            try:
                if comm.rank < num_servers:
                    run_server(comm, play, num_servers, transport)
                else:
                    run_trainer(comm, play, num_servers, transport, run_ahead)
            except BaseException as error:
                error.add_note(f"in scenario {scenario.name!r}, {transport}, {run_ahead=}, rank {comm.rank}")
                raise
            comm.Barrier()
            if comm.rank == 0:
                print(f"{scenario.name}, {transport}, {run_ahead=}: as it should be", flush=True)


if __name__ == "__main__":
    main()
