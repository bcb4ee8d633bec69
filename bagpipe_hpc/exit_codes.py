"""Exit codes of the `bagpipe` command; batch scripts act on them."""

EXIT_DONE = 0
EXIT_FAILURE = 1  # the job, or a check, failed
EXIT_INVALID = 2  # arguments, settings or data are wrong: nothing was done
EXIT_STOPPED = 75  # asked to stop, and did so behind a checkpoint: start again with --resume auto (EX_TEMPFAIL)
