"""What ranks say to each other: plans, messages to the oracle, and the handshakes at the start and the end of a job.

Pure: these modules know no MPI. They speak over the small interfaces of `ports.py`, which `transport/` implements.
"""
