"""bagpipe_hpc beside other ways to train the same model: the same samples, the same model, the same machine.

`systems.py` lists what is compared, `case.py` says what they train on. All ranks play `measure.py`. A system of
bagpipe_hpc is a job of these ranks (`own_run.py`). A peer runs in one process per trainer, which the rank of the
trainer starts and talks to (`conversation.py`). That process is `worker.py`, and the ways to train are in `plain.py`,
`replicated.py`, `hybrid.py` and `sharded.py`. `figures.py` and `picture.py` show the results.
"""
