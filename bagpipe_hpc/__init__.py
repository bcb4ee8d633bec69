"""Training of deep recommendation models on HPC clusters with a cached embedding table."""
