"""The access stream of a data set, played under other cache policies and system designs."""
