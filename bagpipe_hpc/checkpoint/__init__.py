"""Checkpoints: files, atomic commit, increments, verification, export. The format is in docs/checkpoint.md."""
