"""What each rank does, from start to end: wiring only."""
