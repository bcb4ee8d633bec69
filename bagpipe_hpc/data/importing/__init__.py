"""Import of text and Parquet tables: a description says what the columns hold, one importer streams the files."""
