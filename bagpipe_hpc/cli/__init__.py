"""The `bagpipe` command."""
