"""A server's rows: gather, scatter, lazy initialisation."""
