"""Data sets: the HDF5 shard format, its reader and writer, importers, synthetic click logs. See docs/data.md."""
