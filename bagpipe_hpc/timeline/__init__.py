"""The timeline of a traced run: the trace of all ranks, a table of where the time went, a picture."""
