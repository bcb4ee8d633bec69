"""The choice of what sums dense gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.dense_backend import DenseOffer, choose_backend, fits_horovod, offers_gpu

GOOD = [DenseOffer(2, has_gpu=True), DenseOffer(3, has_gpu=True)]
ON_CPUS = [DenseOffer(2, has_gpu=True), DenseOffer(3)]
MISSING = [DenseOffer(2), DenseOffer(3, horovod="Horovod is not installed", nccl="torch finds no GPU")]
ELSEWHERE = [DenseOffer(2), DenseOffer(3, horovod_ranks=(3, 4))]


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
def test_one_backend_for_all_trainers(setting: str | None, offers: list[DenseOffer], chosen: str) -> None:
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
        ("nccl", [DenseOffer(2, nccl="no GPU")] * 2, ["'nccl': no GPU;", "this job has horovod and mpi"]),
    ],
)
def test_a_backend_that_is_not_there(setting: str, offers: list[DenseOffer], words: list[str]) -> None:
    if setting == "nccl" and offers[0] == offers[1]:
        offers = [DenseOffer(2, nccl="no GPU"), DenseOffer(3, nccl="no GPU")]
    with pytest.raises(PlatformError) as caught:
        choose_backend(setting, offers)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize("offer", [*GOOD, *MISSING, *ELSEWHERE])
def test_offers_travel(offer: DenseOffer) -> None:
    assert DenseOffer.from_text(offer.to_text()) == offer


def test_gpus_are_found_without_torch(tmp_path: Path) -> None:
    assert not offers_gpu(tmp_path, {})
    (tmp_path / "nvidiactl").touch()
    assert not offers_gpu(tmp_path, {})
    (tmp_path / "nvidia0").touch()
    assert offers_gpu(tmp_path, {})
    assert offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"})
    for hidden in ("", "-1", "-1,0", "NoDevFiles", "none"):
        assert not offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": hidden})
        assert not offers_gpu(tmp_path, {"ROCR_VISIBLE_DEVICES": hidden})
        assert not offers_gpu(tmp_path, {"HIP_VISIBLE_DEVICES": hidden})


def test_horovod_serves_one_set_of_trainers() -> None:
    assert fits_horovod((2, 3), {None})
    assert fits_horovod((2, 3), {(2, 3)})
    assert not fits_horovod((2, 3), {(2, 3), None})
    assert not fits_horovod((2, 3), {(3, 4)})
