"""The choice of how rows get from trainer to trainer."""

from __future__ import annotations

import pytest

from bagpipe_hpc.config import Config, TrainingConfig
from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer import exchange_choice
from bagpipe_hpc.trainer.exchange_choice import BY_SETTING, ON_CPU, choose_exchange, try_exchange
from bagpipe_hpc.trainer.offer import TrainerOffer

GOOD = TrainerOffer(2, has_gpu=True)
CRASHED = TrainerOffer(4, has_gpu=True, exchange="MPI with the memory of a GPU ends by SIGSEGV")


@pytest.mark.parametrize(
    ("setting", "offers", "chosen", "words"),
    [
        ("auto", [GOOD, GOOD], "device", "from GPU to GPU by MPI"),
        ("device", [GOOD, GOOD], "device", "from GPU to GPU by MPI"),
        ("auto", [GOOD, GOOD, CRASHED], "host", "through host memory (trainer 2: MPI with the memory of a GPU ends by"),
        ("auto", [GOOD, TrainerOffer(3)], "host", "through host memory (trainer 1: no GPU)"),
        ("auto", [TrainerOffer(2, exchange=ON_CPU), TrainerOffer(3)], "host", f"through host memory ({ON_CPU})"),
        ("host", [TrainerOffer(2, has_gpu=True, exchange=BY_SETTING), GOOD], "host", f"host memory ({BY_SETTING})"),
        ("device", [TrainerOffer(2)], "none", "one trainer"),
    ],
)
def test_one_way_for_all_trainers(setting: str, offers: list[TrainerOffer], chosen: str, words: str) -> None:
    exchange, said = choose_exchange(setting, offers)
    assert exchange == chosen
    assert said.startswith("rows between trainers: ")
    assert words in said


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ([GOOD, CRASHED], "trainer 1: MPI with the memory of a GPU ends by SIGSEGV;"),
        ([TrainerOffer(2), GOOD], "trainer 0: no GPU;"),
        ([TrainerOffer(2, exchange=ON_CPU), TrainerOffer(3)], "trainers compute on the CPU;"),
    ],
)
def test_a_way_that_is_not_there(offers: list[TrainerOffer], words: str) -> None:
    with pytest.raises(PlatformError) as caught:
        choose_exchange("device", offers)
    for part in ("training.exchange = 'device': ", words, "set training.exchange to auto or host"):
        assert part in str(caught.value)


def test_nothing_is_tried_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail() -> str:
        tried.append("once")
        return "a fault"

    monkeypatch.setattr(exchange_choice, "fault_of_exposure", fail)
    monkeypatch.setattr(exchange_choice, "offers_gpu", lambda: False)
    assert try_exchange(Config()) == "no GPU"
    monkeypatch.setattr(exchange_choice, "offers_gpu", lambda: True)
    assert try_exchange(Config(training=TrainingConfig(device="cpu", exchange="device"))) == ON_CPU
    assert try_exchange(Config(training=TrainingConfig(exchange="host"))) == BY_SETTING
    assert tried == []
    assert try_exchange(Config(training=TrainingConfig(exchange="device"))) == "a fault"
    assert tried == ["once"]
