"""An embedding server, from start to end.

oracle             server                                   trainers
  |                  1 windows  <--- collective --->           |
  |--- plan n ---->  2 wait for written n-P-1   <-------------- | written i
  |                  3 scatter write-backs of n-P-1             |
  |                  4 gather fetches of n into their stages    |
  |                  5 announce ready n  ---------------------> | Get of n
  |--- snapshot i -> 6 once i is scattered: keep its rows, write them in a thread
  |--- end ------->  7 drain: 2 and 3 for the last P+1          |
  | <-- touched rows 8 for the model digest                     |

While a snapshot is due, the server takes 2 and 3 ahead of their turn whenever no plan has arrived: all fetches that the
iterations in question need were offered before, so their write-backs come without any further plan.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from bagpipe_hpc.checkpoint.hdf5 import chunk_rows
from bagpipe_hpc.checkpoint.manifest import FileEntry
from bagpipe_hpc.checkpoint.merge import Rows
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.protocol.codec import Item
from bagpipe_hpc.protocol.model_collection import send_touched_rows
from bagpipe_hpc.protocol.plan import ServerPlan, SnapshotOrder
from bagpipe_hpc.row_layout import initial_tails, row_width
from bagpipe_hpc.runtime.file_writer import FileWriter, Saved, row_options
from bagpipe_hpc.runtime.finite import FiniteRows
from bagpipe_hpc.runtime.spec import JobSpec
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
from bagpipe_hpc.waiting import note_step, waiting_for


def run_server(spec: JobSpec, topology: Topology, comms: Communicators) -> None:
    """Serve rows until the plans end. Communication: see the timeline."""
    store, end = _open_store(spec, topology, comms)  # 1
    _restore(spec, topology, store)
    with waiting_for("all ranks: to start"):
        comms.world.gather(None)  # the trainers' cache limits
        comms.world.bcast(None)  # ... and what the oracle made of them
    server = _Server(spec, store, end, FileWriter(comms.events))
    server.serve(PlanReceiver(comms.plans))
    if comms.world.bcast(None):  # training is done
        comms.world.gather({"rows_touched": store.num_touched()})
        send_touched_rows(comms.world, store)  # 8
    end.close()


class _Server:
    """Plays the plans."""

    def __init__(self, spec: JobSpec, store: RowStore, end: ServerEnd, writer: FileWriter) -> None:
        self._spec, self._store, self._end, self._writer = spec, store, end, writer
        self._unabsorbed: deque[ServerPlan] = deque()
        self._due: tuple[SnapshotOrder, ServerPlan] | None = None  # and the plan that it follows
        # Trainers write into the table itself, as soon as they know the next plan's rows: from 4 on.
        self._is_direct = isinstance(end, DirectServer)
        self._finite = FiniteRows(spec.config, spec.schema)

    def serve(self, plans: PlanReceiver) -> None:
        """Play every plan; all files are written then."""
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
            note_step()
        self._absorb_all()  # 7
        self._writer.finish()

    def _next(self, plans: PlanReceiver) -> Item | None:
        while self._due is not None and not plans.is_waiting():
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
        """Keep the state as it is (6)."""
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

        def write() -> Saved:
            if not self._is_direct:
                rows.find_rows()
            files: tuple[FileEntry, ...] = ()
            fault = ""
            try:
                files = (partial.write_server(store.server, self._checked(snapshot, pieces), options),)
            except DivergedError as error:
                fault = str(error)
            store.drop_snapshot()
            return Saved(snapshot.num_trained, files, rows.num_rows, start_seconds + rows.stall_seconds, fault)

        self._writer.write(write)

    def _checked(self, snapshot: SnapshotOrder, pieces: Iterable[Rows]) -> Iterator[Rows]:
        """The same pieces; raises DivergedError at the first row that is not finite."""
        for keys, values in pieces:
            self._finite.require(snapshot.num_trained, keys, values)
            note_step()
            yield keys, values


def _restore(spec: JobSpec, topology: Topology, store: RowStore) -> None:
    """Rows of the checkpoint this start goes on from, cached ones included."""
    resumed = spec.checkpoints.open_resumed() if spec.checkpoints else None
    if resumed is not None:
        for keys, rows in resumed.server_rows(store.server, topology.num_servers):
            store.restore(keys, rows)
            note_step()


def _open_store(spec: JobSpec, topology: Topology, comms: Communicators) -> tuple[RowStore, ServerEnd]:
    config = spec.config
    server = topology.server_ranks.index(comms.world.rank)
    key_space = KeySpace(spec.num_embeddings)
    sharding = Sharding(key_space.num_keys, topology.num_servers)
    columns, tables = config.model.embedding_columns, spec.schema.own_tables
    dims = [columns - config.unused_columns_of(table.name) for table in tables]
    tails = initial_tails(config, len(tables))
    initializer = RowInitializer(key_space, columns, config.training.seed, tails, dims)
    shape = (sharding.num_local_rows(server), row_width(config))
    if comms.link is not None:
        store = RowStore(sharding, server, initializer, lazy_zeros(shape, np.float32))
        return store, MemoryServer(comms.link, server, store)
    if config.transport == "direct":
        window = RowWindow(comms.rows, *shape)
        store = RowStore(sharding, server, initializer, window.rows)
        return store, DirectServer(comms.rows, topology.num_servers, window, store)
    store = RowStore(sharding, server, initializer, lazy_zeros(shape, np.float32))
    return store, StagedServer(comms.rows, topology.num_servers, config.prefetch_depth + 1, store)
