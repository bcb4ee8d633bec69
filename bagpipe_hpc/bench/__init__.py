"""Benchmarks to run on one's own cluster."""
