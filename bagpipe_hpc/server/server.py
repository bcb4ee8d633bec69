"""An embedding server, from start to end.

oracle             server                                   trainers
  |                  1 windows  <--- collective --->           |
  |--- plan n ---->  2 wait for written n-P-1   <-------------- | written n-P-1
  |                  3 scatter write-backs of n-P-1             |
  |                  4 gather fetches of n into their stages    |
  |                  5 announce ready n  ---------------------> | Get of n
  |--- snapshot i -> 6 once i is scattered: keep its rows, write them in a thread
  |--- end ------->  7 2 and 3 for the last P+1 plans          |
  | <-- touched rows 8 for the model digest                     |

While a snapshot is due and no plan has arrived, the server does 2 and 3 ahead of their turn: it has offered all fetches
of these iterations before, so their write-backs arrive without any further plan.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from bagpipe_hpc.checkpoint.hdf5 import chunk_rows
from bagpipe_hpc.checkpoint.manifest import FileEntry, moved_keys
from bagpipe_hpc.checkpoint.merge import Rows
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.memory_use import resident_bytes
from bagpipe_hpc.polling import serve_others
from bagpipe_hpc.protocol.codec import Item
from bagpipe_hpc.protocol.figure_schedule import is_due
from bagpipe_hpc.protocol.handshakes import (
    ROWS_PER_PIECE,
    agree_on_cache_rows,
    agree_on_end,
    piece_starts,
    send_model_rows,
    send_totals,
)
from bagpipe_hpc.protocol.inbox import Outbox
from bagpipe_hpc.protocol.messages import FilesSaved, RankFigures
from bagpipe_hpc.protocol.plan import ServerPlan, SnapshotOrder
from bagpipe_hpc.protocol.totals import ServerTotals
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.energy import EnergyMeter
from bagpipe_hpc.runtime.file_writer import FileWriter, row_options, saved_files
from bagpipe_hpc.runtime.finite import FiniteRows
from bagpipe_hpc.runtime.row_initializer import row_initializer
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.base import ServerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.communicators import Communicators
from bagpipe_hpc.transport.direct import DirectServer
from bagpipe_hpc.transport.memory import MemoryServer
from bagpipe_hpc.transport.staged import StagedServer
from bagpipe_hpc.transport.window import RowWindow
from bagpipe_hpc.waiting import note_step


def run_server(spec: JobSpec, start: StartingPoint, topology: Topology, comms: Communicators) -> None:
    """Serve rows until the plans end. Communication: see the timeline."""
    serve_others()
    meter = EnergyMeter()
    store, end = _open_store(spec, topology, comms)  # 1
    _restore(start, topology, store, KeySpace(spec.num_embeddings))
    agree_on_cache_rows(comms.world, None)
    outbox = Outbox(comms.mailbox)
    server = _Server(spec, store, end, outbox, comms.world.rank)
    server.serve(PlanReceiver(comms.plans))
    outbox.finish()
    if agree_on_end(comms.world, None):
        send_totals(comms.world, ServerTotals(store.num_touched(), meter.reading()))
        pieces = (store.touched(start_row, ROWS_PER_PIECE) for start_row in piece_starts(store.sharding))
        send_model_rows(comms.world, store.sharding, pieces)  # 8
    end.close()
    meter.close()


class _Server:
    """Plays the plans of one server."""

    def __init__(self, spec: JobSpec, store: RowStore, end: ServerEnd, outbox: Outbox, world_rank: int) -> None:
        self._spec, self._store, self._end = spec, store, end
        self._outbox, self._writer, self._world_rank = outbox, FileWriter(outbox), world_rank
        self._num_offered = 0  # plans
        self._unabsorbed: deque[ServerPlan] = deque()
        self._due: tuple[SnapshotOrder, ServerPlan] | None = None  # and the plan that it follows
        # With transport=direct, trainers write into the rows from step 4 on, so a snapshot cannot be read later.
        self._is_direct = isinstance(end, DirectServer)
        self._finite = FiniteRows(spec.config, spec.schema)

    def serve(self, plans: PlanReceiver) -> None:
        """Play every plan. On return, all files of checkpoints are written."""
        while (item := self._next(plans)) is not None:
            if isinstance(item, SnapshotOrder):
                self._due = item, self._unabsorbed[-1]
                if self._is_direct:
                    self._absorb_all()
                continue
            assert isinstance(item, ServerPlan)
            if len(self._unabsorbed) > self._spec.config.prefetch_depth:
                self._absorb()
            self._end.offer(item)  # 4, 5
            self._unabsorbed.append(item)
            self._num_offered += 1
            if is_due(self._num_offered):
                self._tell_figures()
            note_step()
        self._absorb_all()  # 7
        self._writer.finish()
        self._tell_figures()

    def _tell_figures(self) -> None:
        """Tell the oracle how much memory this server uses. Communication: sends to the oracle, without waiting."""
        figures = {"server": self._store.server, "memory_bytes": resident_bytes(), "host": socket.gethostname()}
        self._outbox.send(RankFigures(self._world_rank, figures))

    def _next(self, plans: PlanReceiver) -> Item | None:
        while self._due is not None and not plans.has_message():
            self._absorb()
        return plans.next()

    def _absorb_all(self) -> None:
        while self._unabsorbed:
            self._absorb()

    def _absorb(self) -> None:
        plan = self._unabsorbed.popleft()
        self._end.absorb(plan)  # 2, 3
        if self._due is not None and self._due[1] is plan:
            self._save(self._due[0])
            self._due = None

    def _save(self, snapshot: SnapshotOrder) -> None:
        """Keep the rows as they are, and let the thread write them (6)."""
        assert self._spec.checkpoints is not None
        start = time.perf_counter()
        store = self._store
        rows = store.take_snapshot(is_full=snapshot.is_full)
        pieces: Iterable[Rows] = (
            (store.sharding.keys_of(store.server, local_rows), values)
            for local_rows, values in rows.pieces(chunk_rows(store.row_width))
        )
        if self._is_direct:
            rows.find_rows()
            pieces = list(pieces)
        start_seconds = time.perf_counter() - start
        partial = self._spec.checkpoints.partial(snapshot.num_trained, store.row_width)
        options = row_options(self._spec.config.checkpoint, is_full=snapshot.is_full)

        def write() -> FilesSaved:
            if not self._is_direct:
                rows.find_rows()
            entries: list[FileEntry] = []
            fault = ""
            try:
                entries.append(partial.write_server(store.server, self._checked(snapshot, pieces), options))
            except DivergedError as error:
                fault = str(error)
            store.drop_snapshot()
            stall_seconds = start_seconds + rows.stall_seconds
            return FilesSaved(snapshot.num_trained, saved_files(entries), rows.num_rows, stall_seconds, fault)

        self._writer.write(write)

    def _checked(self, snapshot: SnapshotOrder, pieces: Iterable[Rows]) -> Iterator[Rows]:
        """Yield the same pieces; raise DivergedError at the first row that is not finite."""
        for keys, values in pieces:
            self._finite.require(snapshot.num_trained, keys, values)
            note_step()
            yield keys, values


def _restore(start: StartingPoint, topology: Topology, store: RowStore, key_space: KeySpace) -> None:
    """Take over the rows of the checkpoint that the job goes on from, those in caches included."""
    if start.checkpoint is None:
        return
    moved = moved_keys(start.checkpoint.manifest.model, key_space)
    server, num_servers = (store.server, topology.num_servers) if moved is None else (0, 1)
    for keys, rows in start.checkpoint.server_rows(server, num_servers):
        if moved is not None:  # the rows of this server are in the files of all servers
            keys = moved(keys)
            mine = store.sharding.server_of(keys) == store.server
            keys, rows = keys[mine], rows[mine]
        store.restore(keys, rows)
        note_step()


def _open_store(spec: JobSpec, topology: Topology, comms: Communicators) -> tuple[RowStore, ServerEnd]:
    config = spec.config
    server = topology.server_ranks.index(comms.world.rank)
    key_space = KeySpace(spec.num_embeddings)
    sharding = Sharding(key_space.num_keys, topology.num_servers)
    initializer = row_initializer(config, spec.schema)
    shape = (sharding.num_local_rows(server), row_width(config))
    if comms.link is not None:
        store = RowStore(sharding, server, initializer, lazy_zeros(shape, np.float32))
        return store, MemoryServer(comms.link, server, store)
    if config.transport == "direct":
        window = RowWindow(comms.row_comm, *shape)
        store = RowStore(sharding, server, initializer, window.memory)
        return store, DirectServer(comms.row_comm, topology.num_servers, window, store)
    store = RowStore(sharding, server, initializer, lazy_zeros(shape, np.float32))
    return store, StagedServer(comms.row_comm, topology.num_servers, config.prefetch_depth + 1, store)
