"""All systems in turn, as every rank plays it.

Repeat r runs every system once, then comes repeat r + 1. So what slows the machine down for a while, slows all systems.
The repeat before the first one does not count: it shows which systems run here at all.

While a peer trains, the ranks that do not train sleep between polls (`enter_together`): MPI's own barriers would keep
cores busy that the peer needs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mpi4py import MPI

from bagpipe_hpc.bench.peers.case import PeersCase
from bagpipe_hpc.bench.peers.conversation import WorkerProcess, environment_of_worker
from bagpipe_hpc.bench.peers.figures import PeersFigures
from bagpipe_hpc.bench.peers.network import SentBytes, address_for_others, interface_towards
from bagpipe_hpc.bench.peers.own_run import delete_run, run_job
from bagpipe_hpc.bench.peers.systems import Crew, System, why_absent
from bagpipe_hpc.bench.peers.turn import RankTurn, TrainerTurn, Turn, joint_turn
from bagpipe_hpc.data.dataset import Progress, no_progress
from bagpipe_hpc.transport.collectives import all_gather_json, enter_together

LOOPBACK = "127.0.0.1"


class PeersBench:
    """The comparison, at one rank.

    Args:
        comm: All ranks: the oracle, the servers, the trainers.
        case: What is trained.
        systems: What is compared.
        run_path: Directory for the run directories of jobs, which are deleted.
        timeout: How many seconds a peer may take for one run.
        interface: The network interface of the peers; None: that of the route to the first trainer.
        progress: Called with the present run.
    Communication: construction is collective over comm.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        case: PeersCase,
        systems: Sequence[System],
        run_path: Path,
        timeout: float,
        interface: str | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self._comm, self._case, self._run_path = comm, case, run_path
        self._timeout, self._progress = timeout, progress
        self._trainer = comm.rank - 1 - case.servers  # below 0: no trainer
        hosts = all_gather_json(comm, socket.gethostname())
        self._num_hosts = len(set(hosts))
        self._is_first_of_host = hosts.index(hosts[comm.rank]) == comm.rank
        trainer_hosts = set(hosts[1 + case.servers :])
        self._set_route(len(trainer_hosts) > 1, interface)
        self._systems = list(systems)
        reasons = all_gather_json(comm, {system.name: why_absent(system, len(trainer_hosts)) for system in systems})
        self._absent = {
            name: next(filter(None, (of_rank[name] for of_rank in reasons[1 + case.servers :])), "")
            for name in reasons[0]
        }
        self._workers: dict[Crew, WorkerProcess | None] = {}

    def _set_route(self, has_hosts: bool, interface: str | None) -> None:
        """Agree on the address of the first trainer, and find the interface that leads there."""
        is_first = self._trainer == 0
        address = (address_for_others(interface) if is_first else "") if has_hosts else LOOPBACK
        self._master = self._said_by_first_trainer(address)
        self._interface = "lo" if not has_hosts else interface
        if has_hosts and interface is None and self._trainer >= 0:
            self._interface = interface_towards(self._master)

    def _said_by_first_trainer(self, value: Any) -> Any:
        """Return what the first trainer gives. Communication: collective over all ranks."""
        return all_gather_json(self._comm, value)[1 + self._case.servers]

    def run(self) -> PeersFigures:
        """Run all repeats and return the figures, the same on every rank.

        Raises:
            BagpipeError: A job or a peer cannot run; the same at every rank, or all ranks are to end.
        Communication: collective over all ranks.
        """
        turns: dict[str, list[Turn]] = {system.name: [] for system in self._systems}
        failed = {name: reason for name, reason in self._absent.items() if reason}
        with ExitStack() as stack:
            stack.callback(self._close)
            for repeat in range(1 + self._case.repeats):
                for system in self._systems:
                    if system.name in failed:
                        continue
                    self._progress(f"repeat {repeat} of {self._case.repeats}: {system.title}", 0, 0)
                    outcome = self._turn(system, repeat)
                    if isinstance(outcome, str):
                        failed[system.name] = outcome
                    elif repeat:
                        turns[system.name].append(outcome)
        return PeersFigures(self._case, tuple(self._systems), turns, failed, self._num_hosts)

    def _turn(self, system: System, repeat: int) -> Turn | str:
        """Run a system once. Return what all ranks have measured, or why a peer failed."""
        with self._watching_links() as sent:
            if system.crew is Crew.RANKS:
                mine = run_job(self._case, system, self._run_path / f"{system.name}-{repeat}")
            else:
                mine = self._run_peer(system)
            enter_together(self._comm)
        if system.crew is Crew.RANKS and self._comm.rank == 0:
            delete_run(self._run_path / f"{system.name}-{repeat}")
        mine = RankTurn(mine.trainer, mine.error, mine.peak_bytes, tuple(sent))
        ranks = [RankTurn.of_json(each) for each in all_gather_json(self._comm, mine.to_json())]
        errors = [rank.error for rank in ranks if rank.error]
        if errors:
            self._dismiss(system.crew)
            return str(errors[0])
        case = self._case
        return joint_turn(ranks, case.iterations * case.batch_size, case.iterations, case.num_trainers)

    @contextmanager
    def _watching_links(self) -> Iterator[list[tuple[float, int]]]:
        """Let the first rank of each host sample what its host sends. The list has the samples after the block."""
        samples: list[tuple[float, int]] = []
        if self._num_hosts == 1 or not self._is_first_of_host:
            yield samples
            return
        with SentBytes() as watch:
            yield samples
        samples += watch.samples

    def _run_peer(self, system: System) -> RankTurn:
        """Train a peer, if this rank is one of its trainers."""
        size = 1 if system.crew is Crew.ONE else self._case.num_trainers
        if system.crew not in self._workers:
            self._assemble(system, size)
        worker = self._workers[system.crew]
        if worker is None:
            return RankTurn()
        case = self._case
        request = {"say": "run", "system": system.name, "warm_up": case.warm_up, "iterations": case.iterations}
        answer = worker.ask(system.title, request)
        if "error" in answer:
            return RankTurn(error=str(answer["error"]).splitlines()[0])
        losses = tuple(loss / size for loss in answer.pop("losses"))
        return RankTurn(TrainerTurn(losses=losses, **answer))

    def _assemble(self, system: System, size: int) -> None:
        """Start the processes of a crew, one for each of the first `size` trainers, and let them join."""
        case, worker = self._case, None
        threads = case.threads * case.num_trainers // size
        request = {
            "say": "join", "rank": self._trainer, "size": size, "threads": threads, "case": case.to_json(),
            "master": self._master, "port": None, "timeout": self._timeout,
        }  # fmt: skip
        if 0 <= self._trainer < size:
            environment = environment_of_worker(os.environ, threads, self._interface)
            name = f"the process of trainer {self._trainer} on {socket.gethostname()}"
            worker = WorkerProcess(name, environment, self._timeout)
            self._workers[system.crew] = worker  # now, so that it is closed if the next line fails
        port = worker.ask(system.title, request).get("port") if worker and self._trainer == 0 and size > 1 else None
        port = self._said_by_first_trainer(port)
        if worker:
            worker.ask(system.title, request | {"port": port})
        self._workers[system.crew] = worker

    def _dismiss(self, crew: Crew) -> None:
        """End the processes of a crew. The next system of the crew starts new ones."""
        worker = self._workers.pop(crew, None)
        if worker:
            worker.close()

    def _close(self) -> None:
        for crew in list(self._workers):
            self._dismiss(crew)
