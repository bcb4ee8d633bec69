"""A trainer's work: cache, exchange, models, one iteration."""
