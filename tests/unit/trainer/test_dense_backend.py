"""The choice of what sums dense gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.dense_backend import choose_backend
from bagpipe_hpc.trainer.offer import TrainerOffer

GOOD = [TrainerOffer(2, has_gpu=True), TrainerOffer(3, has_gpu=True)]
ON_CPUS = [TrainerOffer(2, has_gpu=True), TrainerOffer(3)]
MISSING = [TrainerOffer(2), TrainerOffer(3, horovod="Horovod is not installed", nccl="torch finds no GPU")]
ELSEWHERE = [TrainerOffer(2), TrainerOffer(3, horovod_ranks=(3, 4))]


@pytest.mark.parametrize(
    ("setting", "offers", "chosen"),
    [
        (None, GOOD, "horovod"),
        (None, MISSING, "mpi"),
        (None, ELSEWHERE, "mpi"),
        (None, ON_CPUS, "mpi"),
        (None, [replace(offer, horovod_ranks=(2, 3)) for offer in GOOD], "horovod"),
        ("horovod", GOOD, "horovod"),
        ("horovod", ON_CPUS, "horovod"),
        ("mpi", GOOD, "mpi"),
        ("mpi", MISSING, "mpi"),
        ("nccl", GOOD, "nccl"),
        ("horovod", MISSING[1:], "none"),
    ],
)
def test_one_backend_for_all_trainers(setting: str | None, offers: list[TrainerOffer], chosen: str) -> None:
    backend, said = choose_backend(setting, offers)
    assert backend == chosen
    assert said.startswith("dense gradients: ")


def test_the_reason_for_mpi_is_said() -> None:
    assert "Horovod is not installed at 1 of 2 trainers, first at 1" in choose_backend(None, MISSING)[1]
    assert "serves other trainers of an earlier job" in choose_backend(None, ELSEWHERE)[1]
    assert "no GPU, and Horovod's thread would take a core" in choose_backend(None, ON_CPUS)[1]


@pytest.mark.parametrize(
    ("setting", "offers", "words"),
    [
        ("horovod", MISSING, ["dense.backend = 'horovod'", "not installed at 1 of 2", "this job has mpi", "setup.sh"]),
        ("horovod", ELSEWHERE, ["serves other trainers", "set dense.backend to mpi"]),
        ("nccl", MISSING, ["dense.backend = 'nccl'", "torch finds no GPU", "this job has mpi"]),
        ("nccl", [TrainerOffer(2, nccl="no GPU")] * 2, ["'nccl': no GPU;", "this job has horovod and mpi"]),
    ],
)
def test_a_backend_that_is_not_there(setting: str, offers: list[TrainerOffer], words: list[str]) -> None:
    if setting == "nccl" and offers[0] == offers[1]:
        offers = [TrainerOffer(2, nccl="no GPU"), TrainerOffer(3, nccl="no GPU")]
    with pytest.raises(PlatformError) as caught:
        choose_backend(setting, offers)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
