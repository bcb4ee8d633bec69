"""The process that trains the peers of one trainer: `python -m bagpipe_hpc.bench.peers.worker`.

It stays for all repeats. The rank that has started it (`conversation.py`) writes lines of JSON to its standard input,
and gets one line of JSON for each on its standard output:

    {"say": "join", ...}        joins the other processes; process 0 answers with the port at which it waits for them
    {"say": "run", ...}         trains a system from its initial parameters; answers with times, losses and memory
    end of the input            the process ends

A run that fails is answered with {"error": ...}, and the process ends: the others may wait for it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import IO, Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bagpipe_hpc.bench.peers.case import TAIL, PeersCase
from bagpipe_hpc.bench.peers.memory import forget_peak, peak_bytes
from bagpipe_hpc.bench.peers.peer import Peer
from bagpipe_hpc.bench.peers.samples import Samples, read_samples
from bagpipe_hpc.config import Config

Answer = dict[str, Any]
Builder = Callable[[Config, Samples], Peer]


def main() -> int:
    """Answer every line until the input ends."""
    # Libraries may print: what they print goes to standard error, so that it cannot be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            _say(answers, {"error": f"{type(error).__name__}: {error}".strip()})
            os._exit(1)  # at once: the end of a process group may wait for the others
        _say(answers, answer)
    os._exit(0)


def _say(answers: IO[str], answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class Worker:
    """The samples and the process group of one process."""

    def __init__(self) -> None:
        self._case: PeersCase | None = None
        self._samples: Samples | None = None
        self._store: TCPStore | None = None  # the process group talks to it as long as it lives

    def answer(self, request: dict[str, Any]) -> Answer:
        """Do what a line asks for."""
        return self._join(request) if request["say"] == "join" else self._run(request)

    def _join(self, request: dict[str, Any]) -> Answer:
        rank, size = request["rank"], request["size"]
        if request["port"] is None and size > 1:
            timeout = timedelta(seconds=request["timeout"])
            self._store = TCPStore(request["master"], 0, size, is_master=True, timeout=timeout, wait_for_workers=False)
            return {"port": self._store.port}
        torch.set_num_threads(request["threads"])
        self._case = PeersCase.of_json(request["case"])
        if size > 1:
            self._join_group(request["master"], request["port"], rank, size, timedelta(seconds=request["timeout"]))
        self._samples = read_samples(self._case, rank, size)
        return {}

    def _join_group(self, master: str, port: int, rank: int, size: int, timeout: timedelta) -> None:
        if self._store is None:
            self._store = TCPStore(master, port, size, is_master=False, timeout=timeout)
        dist.init_process_group("gloo", store=self._store, rank=rank, world_size=size, timeout=timeout)

    def _run(self, request: dict[str, Any]) -> Answer:
        assert self._case is not None
        assert self._samples is not None
        gc.collect()
        forget_peak()
        peer = builder_of(request["system"])(self._case.config(), self._samples)
        warm_up, iterations = request["warm_up"], request["iterations"]
        # A pipeline that works ahead needs samples after the timed ones.
        ahead = TAIL if request["system"].endswith("pipeline") else 0
        losses = peer.train(self._samples.shares[: warm_up + iterations + ahead])
        first = list(islice(losses, warm_up))
        if dist.is_initialized():
            dist.barrier()
        begin, start = time.time(), time.perf_counter()
        timed = list(islice(losses, iterations))
        end, stop = time.time(), time.perf_counter()
        for _ in losses:
            pass
        return {
            "losses": [float(loss) for loss in first + timed],
            "seconds": stop - start,
            "begin": begin,
            "end": end,
            "peak_bytes": peak_bytes(),
        }


def builder_of(system: str) -> Builder:
    """Return what makes the model of a system. TorchRec is imported only for the systems that need it."""
    if system == "plain":
        from bagpipe_hpc.bench.peers.plain import PlainPeer

        return PlainPeer
    if system == "ddp":
        from bagpipe_hpc.bench.peers.replicated import ReplicatedPeer

        return ReplicatedPeer
    if system == "hybrid":
        from bagpipe_hpc.bench.peers.hybrid import HybridPeer

        return HybridPeer
    from bagpipe_hpc.bench.peers.sharded import ShardedPeer

    return partial(ShardedPeer, by_rows="row" in system.split("-"), has_pipeline=system.endswith("pipeline"))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(main())
