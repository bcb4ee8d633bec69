"""One embedding server and its rows."""
