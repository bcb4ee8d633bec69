"""How bytes and rows move between ranks: over MPI, and in memory for ranks that are threads of one process."""
