"""The handshake at the start of a job, by ranks that are threads: who tries how to exchange rows, what is chosen."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import BagpipeError, PlatformError
from bagpipe_hpc.launch import agreement
from bagpipe_hpc.launch.agreement import AgreedJob, agree_on_job
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.launch.role_placement import Place
from bagpipe_hpc.trainer import offer
from bagpipe_hpc.transport.memory_comm import MemoryComm
from tests.integration.conftest import make_dataset

HOSTS = ["a", "a", "a", "a", "b", "b"]  # oracle and server on a, trainers on ranks 2, 3, 4 and 5
OF_THREAD = threading.local()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("agreement") / "data")


class Ranks:
    """The ranks of a launch on hosts with GPUs; `tried` has those that have tried how to exchange rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faults: dict[int, str]) -> None:
        self.faults = faults
        self.tried: list[int] = []
        monkeypatch.setattr(Place, "of_this_rank", lambda: Place(HOSTS[OF_THREAD.rank], has_gpu=True))
        monkeypatch.setattr(agreement, "try_exchange", self.try_exchange)
        monkeypatch.setattr(offer, "offers_gpu", lambda: True)

    def try_exchange(self, config: Config) -> str:
        self.tried.append(OF_THREAD.rank)
        return self.faults.get(OF_THREAD.rank, "")

    def agree(self, request: Request, num_ranks: int) -> list[AgreedJob | BagpipeError]:
        """What each rank gets."""

        def play(comm: MemoryComm) -> AgreedJob | BagpipeError:
            OF_THREAD.rank = comm.rank
            agreed = agree_on_job(cast(Any, comm), request)
            return agreed if isinstance(agreed, BagpipeError) else agreed[1]

        with ThreadPoolExecutor(num_ranks) as threads:
            return list(threads.map(play, MemoryComm.world(num_ranks), timeout=60))


@pytest.mark.parametrize(
    ("num_ranks", "faults", "tried", "exchange", "said"),
    [
        (6, {}, [2, 4], "device", "rows between trainers: from GPU to GPU by MPI"),
        (6, {4: "it crashes"}, [2, 4], "host", "rows between trainers: through host memory (trainer 2: it crashes)"),
        (3, {}, [], "none", ""),  # one trainer
    ],
)
def test_the_first_trainer_of_each_host_tries_and_all_do_the_same(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dataset: Path,
    tmp_path: Path,
    num_ranks: int,
    faults: dict[int, str],
    tried: list[int],
    exchange: str,
    said: str,
) -> None:
    ranks = Ranks(monkeypatch, faults)
    with caplog.at_level(logging.INFO):
        agreed = ranks.agree(Request(None, dataset, tmp_path / "run", []), num_ranks)
    for job in agreed:
        assert isinstance(job, AgreedJob)
        assert job.spec.exchange == exchange
        job.release()
    assert sorted(ranks.tried) == tried
    assert [line for line in caplog.messages if line.startswith("rows between")] == ([said] if said else [])


def test_a_way_that_is_not_there_is_the_same_error_at_all_ranks(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path
) -> None:
    ranks = Ranks(monkeypatch, {2: "it hangs"})
    errors = ranks.agree(Request(None, dataset, tmp_path / "run", ["training.exchange=device"]), 6)
    assert {str(error) for error in errors} == {str(errors[0])}
    for error in errors:
        assert isinstance(error, PlatformError)
        assert "training.exchange = 'device': trainer 0: it hangs; set" in str(error)
    assert not (tmp_path / "run").exists()
