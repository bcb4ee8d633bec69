"""Looking ahead (paper section 3): the batch stream becomes a stream of iteration plans. Pure: numpy and numba only."""
