"""The protocol between ranks: plans, messages to the oracle, and the handshakes at the start and the end of a job.

These modules do not use MPI. They communicate over the small interfaces of `ports.py`, which `transport/` implements.
"""
