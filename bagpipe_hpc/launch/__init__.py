"""The start of a job: from a command or a program to ranks that play their roles."""
