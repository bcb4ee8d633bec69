"""Which trainers Horovod can serve."""

from __future__ import annotations

from bagpipe_hpc.trainer.horovod_state import fits_horovod


def test_horovod_serves_one_set_of_trainers() -> None:
    assert fits_horovod((2, 3), {None})
    assert fits_horovod((2, 3), {(2, 3)})
    assert not fits_horovod((2, 3), {(2, 3), None})
    assert not fits_horovod((2, 3), {(3, 4)})
