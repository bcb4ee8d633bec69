"""The device of a trainer: memory, copies, streams, events and kernels. `base.py` says what moves where, and when."""
