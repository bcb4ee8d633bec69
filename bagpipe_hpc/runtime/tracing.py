"""The tracing of a job: every rank writes a file into RUN_DIR/trace/, and the oracle merges them into trace.json."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.runtime.run_directory import writing_to
from bagpipe_hpc.timeline.merge import merge_traces, rank_file
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.trace import Tracer, install, save
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import enter_together
from bagpipe_hpc.transport.common_clock import clock_name, common_origin


@contextmanager
def tracing(world: Comm, topology: Topology, iterations: range | None, run_path: Path) -> Iterator[None]:
    """Trace this rank inside the block.

    If the block raises an error, the files of the ranks are not merged.

    Args:
        world: All ranks.
        topology: The roles of the ranks.
        iterations: The stream positions to trace. None: tracing is off.
        run_path: The run directory.
    Raises:
        BagpipeError: a file of the trace cannot be written.
    Communication: collective over world, before and after the block, if tracing is on.
    """
    if iterations is None:
        yield
        return
    origin_ns, clock_error_ns = common_origin(world, time.perf_counter_ns, clock_name())
    path = rank_file(run_path, world.rank)
    tracer = Tracer(
        path,
        rank=world.rank,
        world_size=world.size,
        role=topology.role_of(world.rank).value,
        name=topology.name_of(world.rank).replace(")", f", {socket.gethostname()})"),
        iterations=iterations,
        origin_ns=origin_ns,
        clock_error_ns=clock_error_ns,
    )
    install(tracer)
    yield
    with writing_to(path):
        save()
    install(None)
    enter_together(world)
    if world.rank == ORACLE_RANK:
        with writing_to(run_path):
            merged = merge_traces(run_path)
        LOGGER.info("trace %s (https://ui.perfetto.dev, bagpipe report)", merged)
