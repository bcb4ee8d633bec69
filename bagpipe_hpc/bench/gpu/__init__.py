"""`bagpipe bench gpu`: training on a GPU beside the same model with all rows in its memory.

`measure.py` runs in the command's own process, which uses neither torch nor MPI. It asks worker processes (`worker.py`)
to train: one process for jobs with one trainer and for what they are compared with, and one MPI job for each larger
number of trainers. A worker that fails or hangs is replaced, and the other measurements go on.
"""
