"""Next-click prediction on a log of sessions: models of bagpipe_hpc beside plain PyTorch.

log.py       a log of clicks -> a table of clicks and sampled negatives, in time order
case.py      what is trained, and how
plain.py     plain PyTorch
measure.py   the runs
figures.py   the table
"""
