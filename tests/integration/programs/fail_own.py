"""A job with a training loop that fails at trainer 1, on 4 ranks: fail_own.py DATA RUN_DIR raise|leave|forget"""

from __future__ import annotations

import sys

from mpi4py import MPI

import bagpipe_hpc
from bagpipe_hpc.trainer.trainer_batch import train_on_labels

if __name__ == "__main__":
    data, run_dir, how = sys.argv[1:]
    settings = {"training": {"batch_size": 50, "epochs": 100}}
    with bagpipe_hpc.session(settings, data=data, run_dir=run_dir) as session:
        for batch in session:
            fails = batch.iteration == 7 and MPI.COMM_WORLD.rank == 3
            if fails and how == "raise":
                raise ValueError("of mine")
            if fails and how == "leave":
                break
            if not fails:
                train_on_labels(batch)
