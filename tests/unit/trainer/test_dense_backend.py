"""The choice of what sums dense gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bagpipe_hpc.config import Config, TrainingConfig
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer import dense_backend
from bagpipe_hpc.trainer.dense_backend import (
    DenseOffer,
    check_execution,
    check_gpus,
    choose_backend,
    fits_horovod,
)
from bagpipe_hpc.trainer.device import gpus

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


def test_horovod_serves_one_set_of_trainers() -> None:
    assert fits_horovod((2, 3), {None})
    assert fits_horovod((2, 3), {(2, 3)})
    assert not fits_horovod((2, 3), {(2, 3), None})
    assert not fits_horovod((2, 3), {(3, 4)})


def test_a_job_that_asks_for_gpus_names_the_trainer_that_has_none() -> None:
    offers = [DenseOffer(2, has_gpu=True), DenseOffer(3, gpu="torch 2 finds no GPU")]
    check_gpus("auto", offers)
    check_gpus("gpu", offers[:1])
    with pytest.raises(PlatformError) as caught:
        check_gpus("gpu", offers)
    for words in ("training.device = 'gpu'", "finds no GPU at 1 of 2 trainers, first at 1", "auto or cpu"):
        assert words in str(caught.value)


def test_a_job_on_cpus_has_no_gpu_to_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_backend, "offers_gpu", lambda: True)
    assert DenseOffer.of_this_rank(2, Config()).has_gpu
    assert not DenseOffer.of_this_rank(2, Config(training=TrainingConfig(device="cpu"))).has_gpu


def test_a_trainer_that_cannot_run_the_model_as_asked_is_named() -> None:
    offers = [DenseOffer(2), DenseOffer(3, execution="torch.compile needs a compiler")]
    check_execution("eager", [DenseOffer(2)])
    with pytest.raises(PlatformError) as caught:
        check_execution("compiled", offers)
    for words in ("training.execution = 'compiled'", "a compiler at 1 of 2 trainers, first at 1", "to eager, or"):
        assert words in str(caught.value)


def test_only_a_trainer_on_a_gpu_offers_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "num_gpus", lambda: 1)
    offers = {
        device: DenseOffer.of_this_rank(2, Config(training=TrainingConfig(device=device, execution="graph")))
        for device in ("auto", "cpu")
    }
    assert offers["auto"].execution == ""
    assert "computes on the CPU" in offers["cpu"].execution
