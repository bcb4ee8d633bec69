"""Data sets from tables of text or Parquet: what a table holds is described, one streaming importer does the rest."""
