"""An embedding server, from start to end.

oracle             server                                   trainers
  |                  1 windows  <--- collective --->           |
  |--- plan n ---->  2 wait for written n-P-1   <-------------- | written i
  |                  3 scatter write-backs of n-P-1             |
  |                  4 gather fetches of n into their stages    |
  |                  5 announce ready n  ---------------------> | Get of n
  |--- end ------->  6 drain: 2 and 3 for the last P+1          |
  | <-- touched rows 7 for the model digest                     |

"""

from __future__ import annotations

from collections import deque

from bagpipe_hpc.lookahead.plan import ServerPlan
from bagpipe_hpc.roles.collection import send_touched_rows
from bagpipe_hpc.roles.communicators import Communicators
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.store.initial import RowInitializer
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.store.lazy_memory import lazy_rows
from bagpipe_hpc.store.row_store import RowStore
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.base import ServerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.direct import DirectServer
from bagpipe_hpc.transport.staged import StagedServer
from bagpipe_hpc.transport.window import RowWindow


def run_server(spec: JobSpec, topology: Topology, comms: Communicators) -> None:
    """Serve rows until the plans end. Communication: see the timeline."""
    store, end = _open_store(spec, topology, comms)  # 1
    comms.world.gather(None)  # the trainers' cache limits
    comms.world.bcast(None)  # ... and what the oracle made of them
    plans = PlanReceiver(comms.plans)
    unabsorbed: deque[ServerPlan] = deque()
    while (plan := plans.next()) is not None:
        assert isinstance(plan, ServerPlan)
        if len(unabsorbed) > spec.config.prefetch_depth:
            end.absorb(unabsorbed.popleft())  # 2, 3
        end.offer(plan)  # 4, 5
        unabsorbed.append(plan)
    while unabsorbed:  # 6
        end.absorb(unabsorbed.popleft())
    comms.world.gather({"rows_touched": store.num_touched()})
    send_touched_rows(comms.world, store)  # 7
    end.close()


def _open_store(spec: JobSpec, topology: Topology, comms: Communicators) -> tuple[RowStore, ServerEnd]:
    config = spec.config
    server = topology.server_ranks.index(comms.world.rank)
    key_space = KeySpace(spec.num_embeddings)
    sharding = Sharding(key_space.num_keys, topology.num_servers)
    initializer = RowInitializer(key_space, config.model.embedding_columns, config.training.seed)
    shape = (sharding.num_local_rows(server), row_width(config))
    if config.transport == "direct":
        window = RowWindow(comms.rows, *shape)
        store = RowStore(sharding, server, initializer, window.rows)
        return store, DirectServer(comms.rows, topology.num_servers, window, store)
    store = RowStore(sharding, server, initializer, lazy_rows(*shape))
    return store, StagedServer(comms.rows, topology.num_servers, config.prefetch_depth + 1, store)
