"""Benchmarks that a user can run on their own cluster."""
