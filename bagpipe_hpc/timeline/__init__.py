"""What a traced run did: the trace of all ranks, where the time went, a picture."""
