"""`bagpipe doctor`: look at what a job stands on (MPI, one-sided transfers, Horovod, HDF5, GPUs, the node) and say what
to do about each finding. Runs alone or under `mpirun -n N`; with N ranks every rank looks and rank 0 prints.

A check that raises becomes a failed finding; one that does not end is cut off by its time limit, on every rank by
itself, so that no rank waits for another for ever.
"""

from bagpipe_hpc.cli.doctor.command import doctor

__all__ = ["doctor"]
