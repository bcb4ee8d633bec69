"""What trainers have, and what a job asks of them."""

from __future__ import annotations

import pytest

from bagpipe_hpc.config import Config, TrainingConfig
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer import offer as offer_module
from bagpipe_hpc.trainer.device import gpus
from bagpipe_hpc.trainer.offer import TrainerOffer, check_execution, check_gpus


@pytest.mark.parametrize(
    "offer",
    [
        TrainerOffer(2, has_gpu=True),
        TrainerOffer(3, horovod="Horovod is not installed", nccl="torch finds no GPU"),
        TrainerOffer(3, horovod_ranks=(3, 4)),
    ],
)
def test_offers_travel(offer: TrainerOffer) -> None:
    assert TrainerOffer.from_text(offer.to_text()) == offer


def test_a_job_that_asks_for_gpus_names_the_trainer_that_has_none() -> None:
    offers = [TrainerOffer(2, has_gpu=True), TrainerOffer(3, gpu="torch 2 finds no GPU")]
    check_gpus("auto", offers)
    check_gpus("gpu", offers[:1])
    with pytest.raises(PlatformError) as caught:
        check_gpus("gpu", offers)
    for words in ("training.device = 'gpu'", "finds no GPU at 1 of 2 trainers, first at 1", "auto or cpu"):
        assert words in str(caught.value)


def test_a_job_on_cpus_has_no_gpu_to_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer_module, "offers_gpu", lambda: True)
    assert TrainerOffer.of_this_rank(2, Config()).has_gpu
    assert not TrainerOffer.of_this_rank(2, Config(training=TrainingConfig(device="cpu"))).has_gpu


def test_a_trainer_that_cannot_run_the_model_as_asked_is_named() -> None:
    offers = [TrainerOffer(2), TrainerOffer(3, execution="torch.compile needs a compiler")]
    check_execution("eager", [TrainerOffer(2)])
    with pytest.raises(PlatformError) as caught:
        check_execution("compiled", offers)
    for words in ("training.execution = 'compiled'", "a compiler at 1 of 2 trainers, first at 1", "to eager, or"):
        assert words in str(caught.value)


def test_only_a_trainer_on_a_gpu_offers_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "num_gpus", lambda: 1)
    offers = {
        device: TrainerOffer.of_this_rank(2, Config(training=TrainingConfig(device=device, execution="graph")))
        for device in ("auto", "cpu")
    }
    assert offers["auto"].execution == ""
    assert "computes on the CPU" in offers["cpu"].execution
