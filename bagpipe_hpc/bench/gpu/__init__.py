"""`bagpipe bench gpu`: training on a GPU beside the same model with all rows in its memory.

`measure.py` runs in the command's own process, which uses neither torch nor MPI. It asks worker processes (`worker.py`)
to train: one process alone for what jobs are compared with, and one MPI launch for each number of trainers. Without an
MPI launcher, jobs with one trainer run in the process alone, as threads. A worker that fails or hangs is replaced, and
the other measurements go on.
"""
