"""What rank 0 decides: plans, checkpoints, evaluations, when to stop, and what it shows."""
