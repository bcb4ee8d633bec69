"""One trainer: its model, its cache and one iteration."""
