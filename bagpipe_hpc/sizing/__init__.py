"""How large to make a job: what it moves, how long an iteration takes, how much memory each role needs."""
