"""The command: run the checks on every rank, each within its time limit; rank 0 prints one table."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.cli.doctor.allocation import BINDING, CLOCKS, ROLES, TRANSFERS
from bagpipe_hpc.cli.doctor.exchange import EXCHANGE, EXCHANGE_OF_TRAINERS
from bagpipe_hpc.cli.doctor.fabric import LAUNCHER, MPI_LIBRARY, RMA
from bagpipe_hpc.cli.doctor.finding import Check, Finding, Status, World, decode, encode, gather_texts
from bagpipe_hpc.cli.doctor.node import CORES, MEMORY, OPEN_FILES, SHM
from bagpipe_hpc.cli.doctor.software import COMPILED_CODE, DENSE_BACKENDS, GPUS, HDF5, HOROVOD, PACKAGES
from bagpipe_hpc.cli.printed_json import print_json

if TYPE_CHECKING:
    from bagpipe_hpc.transport.byte_messages import Comm

CHECKS = (
    PACKAGES,
    COMPILED_CODE,
    MPI_LIBRARY,
    LAUNCHER,
    CORES,
    SHM,
    MEMORY,
    OPEN_FILES,
    GPUS,
    EXCHANGE,
    HDF5,
    RMA,
    DENSE_BACKENDS,
    HOROVOD,
)
ALLOCATION_CHECKS = (MPI_LIBRARY, LAUNCHER, ROLES, CORES, BINDING, EXCHANGE_OF_TRAINERS, CLOCKS, TRANSFERS)
REPORT = Check(
    "Report",
    lambda world: (Status.OK, "", ""),
    "a rank did not get this far: see the lines of other ranks on stderr, or check its host alone",
)
COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
PLAIN_WIDTH = 120  # of a table that is written to a file or through a launcher
GRACE_SECONDS = 3.0
_CHECKING = "checking this machine"

Printed = Callable[[Sequence[Finding]], None]


def examine(
    checks: Sequence[Check], directory: Path, time_limit: float, num_servers: int = 1, *, as_json: bool = False
) -> bool:
    """Run the checks and print the report, as a table or as JSON.

    Communication: collective over all ranks.
    Returns:
            True if no check failed on any rank; the same value on every rank.
    """
    findings: list[Finding] = []
    printed = show_json if as_json else show
    comm, problem = _start_mpi(findings, time_limit, printed)
    world = World(comm, directory, num_servers)
    with showing_activity(_CHECKING) if world.rank == 0 else nullcontext(_say_nothing) as progress:
        for number, check in enumerate(checks):
            progress(_CHECKING, number, len(checks))
            with _limited(check, findings, world.rank, time_limit, printed):
                findings.append(problem if problem and check is MPI_LIBRARY else check(world))
    with _limited(REPORT, findings, world.rank, time_limit, printed):
        merged = findings if comm is None else merge([decode(text) for text in gather_texts(comm, encode(findings))])
        if world.rank == 0:
            printed(merged)
        return _all_told(comm, not any(finding.status is Status.FAIL for finding in merged))


def _say_nothing(phase: str, done: int, total: int) -> None:
    """Do nothing: only rank 0 shows the progress."""


def _start_mpi(findings: list[Finding], time_limit: float, printed: Printed) -> tuple[Comm | None, Finding | None]:
    def start(world: World) -> tuple[Status, str, str]:
        from bagpipe_hpc.transport.mpi import library_version

        return Status.OK, library_version(), ""

    with _limited(MPI_LIBRARY, findings, 0, time_limit, printed):
        started = Check(MPI_LIBRARY.name, start, MPI_LIBRARY.cure)(World(None, Path()))
    if started.status is Status.FAIL:
        return None, started
    from bagpipe_hpc.transport.mpi import launched_ranks

    return launched_ranks(), None


def _all_told(comm: Comm | None, healthy: bool) -> bool:
    """Return rank 0's verdict on every rank."""
    if comm is None:
        return healthy
    verdict = np.array([healthy], dtype=np.int32)
    comm.Bcast(verdict, root=0)
    return bool(verdict[0])


@contextmanager
def _limited(
    check: Check, findings: Sequence[Finding], rank: int, time_limit: float, printed: Printed
) -> Iterator[None]:
    """End the process if the block takes too long.

    The timer thread needs Python's lock. If a library holds that lock, faulthandler's own thread ends the process.
    """
    timer = threading.Timer(time_limit, _give_up, (check, findings, rank, time_limit, printed))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(time_limit + 2 * GRACE_SECONDS, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _give_up(check: Check, findings: Sequence[Finding], rank: int, time_limit: float, printed: Printed) -> None:
    found = f"did not end within {time_limit:g} s"
    if rank == 0:
        printed([*findings, Finding(check.name, Status.FAIL, f"{found}; the checks after it did not run", check.cure)])
    else:
        print(f"rank {rank} ({platform.node()}): {check.name} {found}", file=sys.stderr, flush=True)
        # The launcher ends all ranks when the first one exits: leave rank 0 time for its table.
        time.sleep(GRACE_SECONDS)
    sys.stdout.flush()
    os._exit(1)  # not MPI_Abort, because MPI may be what hangs; the launcher ends the job


def merge(by_rank: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Return one finding per check: rank 0's, or the worst finding and the ranks that have it.

    Args:
        by_rank: Findings of every rank, in the same order of checks; empty except on rank 0.
    """
    return [_worst(same_check) for same_check in zip(*by_rank, strict=True)]


def _worst(findings: Sequence[Finding]) -> Finding:
    worst = max(findings, key=lambda finding: finding.status.severity)  # the lowest rank's if several are worst
    if worst.status is Status.OK:
        return findings[0]
    ranks = [rank for rank, finding in enumerate(findings) if finding.status is worst.status]
    listed = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    where = f"\n(on {len(ranks)} of {len(findings)} ranks: {listed})" if len(findings) > 1 else ""
    return Finding(worst.name, worst.status, worst.found + where, worst.cure)


def show_json(findings: Sequence[Finding]) -> None:
    """Print the findings as JSON."""
    print_json([asdict(finding) for finding in findings])


def show(findings: Sequence[Finding]) -> None:
    """Print the findings as a table."""
    table = Table("check", "status", "found", "what to do", title="bagpipe doctor")
    for finding in findings:
        status = Text(finding.status, style=COLOURS[finding.status])
        table.add_row(finding.name, status, Text(finding.found), Text(finding.cure))
    _console().print(table)


def _console() -> Console:
    """Return a plain console unless stdout is a terminal of known width; launchers may give a terminal without one."""
    if sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0:
        return Console(markup=False, emoji=False)
    width = None if "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(width=width, force_terminal=False, markup=False, emoji=False)
