"""The handshake at the start of a job: the ranks agree on roles, settings and the job.

    1  all ranks          send where they run                               to the launcher's rank 0
    2  launcher's rank 0  reads the settings and orders the ranks by role   to all ranks
    3  all ranks          make the world in that order; send their host     to the oracle
       trainers           with it, what they have to sum dense gradients and to exchange rows
    4  oracle             checks the whole job                              to all ranks

If 2 or 4 fails, the error goes to all ranks in place of the result, so that every rank ends with the same error.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.launch.role_placement import Place, first_of_hosts, order_of_roles
from bagpipe_hpc.launcher import check_launcher
from bagpipe_hpc.protocol.handshakes import decode_outcome, encode_outcome
from bagpipe_hpc.protocol.ports import World
from bagpipe_hpc.runtime.process_limits import require_open_files
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.trainer.exchange_choice import try_exchange
from bagpipe_hpc.trainer.offer import TrainerOffer
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.collectives import enter_together
from bagpipe_hpc.transport.communicators import reordered
from bagpipe_hpc.transport.mpi import check_thread_level, library_version
from bagpipe_hpc.transport.ports import CommWorld

if TYPE_CHECKING:
    from bagpipe_hpc.launch.validation import CheckedJob

T = TypeVar("T")


@dataclass(frozen=True)
class AgreedJob:
    """A job that may start, as one rank has it.

    Args:
        spec: The job, as all ranks see it.
        start: Where training starts.
        checked: The job, as the oracle has checked it. None at the other ranks.
    """

    spec: JobSpec
    start: StartingPoint
    checked: CheckedJob | None = None

    def release(self) -> None:
        """Release the run directory, so that another start of the job can own it."""
        if self.checked is not None:
            self.checked.ownership.release()


@dataclass(frozen=True)
class _Order:
    """The decisions of the launcher's rank 0.

    Args:
        config: The settings of the job.
        lines: Lines for the user that say where the settings come from.
        ranks: The launcher's ranks in the order of roles.
        trying: The launcher's ranks that try how to exchange rows: the first trainer of each host.
    """

    config: Config
    lines: list[str]
    ranks: list[int]
    trying: list[int]

    def to_bytes(self) -> bytes:
        return json.dumps([self.config.model_dump(mode="json"), self.lines, self.ranks, self.trying]).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> _Order:
        config, lines, ranks, trying = json.loads(content)
        return cls(Config.model_validate(config), lines, ranks, trying)


def agree_on_job(launched: Comm, request: Request) -> tuple[Comm, AgreedJob] | BagpipeError:
    """Agree on the roles of the ranks and on the job.

    Args:
        launched: All ranks, as the launcher has ordered them.
        request: The request for the job, the same at every rank.
    Returns:
        The ranks in the order of roles, and the job; or the same error at every rank, if there is no job.
    Communication: collective over launched.
    """
    port = CommWorld(launched)
    places = port.gather(Place.of_this_rank().to_bytes())  # 1
    order: _Order | BagpipeError | None = None
    if places is not None:
        found = [Place.from_bytes(place) for place in places]
        order = attempt(lambda: _order(found, request))
    content = _tell_all(port, order, _Order.to_bytes)  # 2
    if isinstance(content, BagpipeError):
        return content
    order = _Order.from_bytes(content)  # rank 0 decodes its own order too, so that all ranks have equal settings
    world = reordered(launched, order.ranks)
    port = CommWorld(world)
    contents = port.gather(_about_this_rank(launched.rank, world.rank, order))  # 3
    job: CheckedJob | BagpipeError | None = None
    if contents is not None:
        found_by_rank = [json.loads(content) for content in contents]
        hosts = [host for host, _ in found_by_rank]
        offers = [TrainerOffer.from_text(offer) for _, offer in found_by_rank if offer]
        job = check_for_all(hosts, offers, order.config, order.lines, request)
    content = _tell_all(port, job, lambda checked: checked.spec.to_bytes())  # 4
    if isinstance(content, BagpipeError):
        enter_together(world)
        world.Free()
        return content
    if job is not None and not isinstance(job, BagpipeError):
        return world, AgreedJob(job.spec, job.start, job)
    spec = JobSpec.from_bytes(content)
    return world, AgreedJob(spec, StartingPoint.of(spec))


def _about_this_rank(launched_rank: int, world_rank: int, order: _Order) -> bytes:
    """Return the host of this rank and, if it is a trainer, its offer, as JSON."""
    offer = ""
    if world_rank > order.config.roles.servers:
        exchange = try_exchange(order.config) if launched_rank in order.trying else ""
        offer = TrainerOffer.of_this_rank(launched_rank, order.config, exchange).to_text()
    return json.dumps([socket.gethostname(), offer]).encode()


def check_for_all(
    hosts: Sequence[str], offers: Sequence[TrainerOffer], config: Config, lines: Sequence[str], request: Request
) -> CheckedJob | BagpipeError:
    """Return the job that `check_job` has checked, or its error. Arguments are those of `check_job`."""
    from bagpipe_hpc.launch.validation import check_job  # only the oracle needs its imports, which take time

    return attempt(lambda: check_job(hosts, offers, config, lines, request))


def attempt(work: Callable[[], T]) -> T | BagpipeError:
    """Return what the work returns. If it raises an error that the user can fix, return that error."""
    try:
        return work()
    except BagpipeError as error:
        return error.with_traceback(None)


def _tell_all(world: World, result: T | BagpipeError | None, encode: Callable[[T], bytes]) -> bytes | BagpipeError:
    """Broadcast the result of rank 0, or its error.

    Args:
        world: All ranks.
        result: The result or the error at rank 0; None at the other ranks.
        encode: Encodes the result.
    Returns:
        The encoded result, or the error.
    Communication: collective over world.
    """
    content: bytes | None = None
    if isinstance(result, BagpipeError):
        content = b"E" + encode_outcome(result)
    elif result is not None:
        content = b"R" + encode(result)
    content = world.broadcast(content)
    if content[:1] == b"R":
        return content[1:]
    error = result if isinstance(result, BagpipeError) else decode_outcome(content[1:])
    assert error is not None
    return error


def _order(places: Sequence[Place], request: Request) -> _Order:
    from bagpipe_hpc.launch.validation import read_config

    command = shlex.join(["bagpipe", *sys.argv[1:]])
    check_launcher(os.environ, len(places), library_version(), command)
    check_thread_level()
    require_open_files(min(place.open_files for place in places), len(places))
    config, lines = read_config(request)
    ranks = order_of_roles(places, config.roles)
    trainers = ranks[1 + config.roles.servers :]
    trying = first_of_hosts(places, trainers) if len(trainers) > 1 else []
    return _Order(config, lines, ranks, trying)
