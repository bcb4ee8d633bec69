"""The planner (paper section 3): it turns the stream of batches into iteration plans. It uses numpy and numba alone."""
