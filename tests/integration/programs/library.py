"""A program that runs jobs one after the other, with other roles each time, and catches what they raise.

Usage: library.py DATA OUT [local]. What happened at each rank goes to OUT/rank<r>.json; the last job's error is not
caught.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import bagpipe_hpc
from bagpipe_hpc.errors import BagpipeError

COMMON: dict[str, Any] = {"batch_size": 50, "threads": 1}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def play(data: str, out: Path, local: bool, name: str, servers: int, **more: Any) -> str:
    """What became of a job: the digest, or the type of the error and its text."""
    training = COMMON | more.pop("training", {})
    settings = {"roles": {"servers": servers}, "training": training, **more.pop("settings", {})}
    try:
        summary = bagpipe_hpc.run(settings, data=data, run_dir=out / name, local=local, **more)
    except BagpipeError as error:
        return f"{type(error).__name__}: {error}"
    return str(summary["model_digest"]) if summary else "done"


def state() -> list[object]:
    """What a job must leave as it was."""
    handlers = [signal.getsignal(signum) for signum in SIGNALS]
    return [threading.excepthook, *handlers, list(warnings.filters), gc.isenabled(), gc.get_freeze_count()]


def main() -> None:
    assert np.__name__ in sys.modules  # it adds warning filters when it is imported
    data, out, local = sys.argv[1], Path(sys.argv[2]), len(sys.argv) > 3
    before = state()
    results = [
        play(data, out, local, "invalid", 1, training={"epochs": 0}),
        play(data, out, local, "one", 1),
        play(data, out, local, "two", 2, trace_iterations=":"),
        play(data, out, local, "again", 1),
        play(data + "-not", out, local, "no data", 1),
        play(data, out, local, "diverged", 2, training={"learning_rate": 1e6}, settings={"checkpoint": {"every": 1}}),
        play(data, out, local, "stopped", 1, training={"epochs": 10**6}, time_limit="3s"),
        play(data, out, local, "last", 2),
    ]
    results.append("as before" if state() == before else f"{before} became {state()}")
    if local:
        assert "mpi4py.MPI" not in sys.modules or not sys.modules["mpi4py.MPI"].Is_initialized()
        assert "horovod" not in sys.modules
        rank = 0
    else:
        from mpi4py import MPI

        rank = MPI.COMM_WORLD.rank
    (out / f"rank{rank}.json").write_text(json.dumps(results))
    bagpipe_hpc.run({"training": {"epohcs": 1}}, data=data, run_dir=out / "uncaught", local=local)


if __name__ == "__main__":
    main()
