"""A small trace: an oracle, a server and two trainers that train iteration n from 10 n to 10 n + 10 milliseconds."""

from __future__ import annotations

import threading
from pathlib import Path

from bagpipe_hpc.timeline.merge import rank_file
from bagpipe_hpc.trace import Tracer

AHEAD = 2  # iterations that plans and rows are ahead of compute

# Name, start and stop in milliseconds of the iteration.
ORACLE = (("plan", 0, 4), ("send", 4, 5))
SERVER = (("receive plan", 0, 6), ("gather", 6, 7))
PREFETCH = (("receive plan", 0, 6), ("get", 8, 9))
TRAINER = (("iteration", 0, 10), ("exchange", 1, 3), ("compute", 3, 8), ("brooding", 8, 9))

Script = tuple[tuple[str, int, int], ...]


def write_ranks(run_path: Path, num_iterations: int = 6, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """Write the files that the ranks of a run write."""
    for rank in ranks:
        role = ("oracle", "server", "trainer", "trainer")[rank]
        name = f"{role} {max(0, rank - 2)} (rank {rank}, host)"
        tracer = Tracer(rank_file(run_path, rank), rank=rank, world_size=4, role=role, name=name)
        if role == "trainer":
            _play(tracer, TRAINER, num_iterations, 0)
            prefetch = threading.Thread(target=_play, args=(tracer, PREFETCH, num_iterations, AHEAD), name="prefetch")
            prefetch.start()
            prefetch.join()
        else:
            _play(tracer, ORACLE if role == "oracle" else SERVER, num_iterations, AHEAD)
        tracer.write()


def _play(tracer: Tracer, script: Script, num_iterations: int, ahead: int) -> None:
    for iteration in range(num_iterations):
        begin = 10 * (iteration - ahead)
        for name, start, stop in script:
            tracer.track().record(name, (begin + start) * 1_000_000, (begin + stop) * 1_000_000, iteration)
