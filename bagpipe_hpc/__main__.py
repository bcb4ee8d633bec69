"""`python -m bagpipe_hpc` is the `bagpipe` command."""

from bagpipe_hpc.cli.main import main

main()
