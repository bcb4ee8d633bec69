"""What every rank has: the job, its run directory, signals, failures, tracing."""
