"""Names within a checkpoint directory, and which saved files a server needs. Pure.

DIR/
    latest                                 text: the name of the checkpoint that was committed last
    best                                   text: the name of the checkpoint with the best evaluation
    .generation-000000000003               the newest start of the job, which alone may write here
    .partial-000000000003-000000002000/    being written
    .discarded-.../                        being deleted
    iteration-000000001000/                committed
    manifest.json
    server-00000.h5 ...  trainer-00000.h5 ...  dense.h5
"""

from __future__ import annotations

import re
from math import gcd

MANIFEST = "manifest.json"
LATEST, BEST = "latest", "best"
DENSE_FILE = "dense.h5"
ORACLE_FILE = "oracle.h5"
METRICS_FILE, EVALUATIONS_FILE = "metrics.jsonl", "evaluations.jsonl"
DISCARDED = ".discarded-"
CHECKPOINTS = "checkpoints"  # the default directory of checkpoints in a run directory

_COMMITTED = re.compile(r"iteration-(\d{12})")
_PARTIAL = re.compile(r"\.partial-(\d{12})-(\d{12})")
_GENERATION = re.compile(r"\.generation-(\d{12})")


def checkpoint_name(iteration: int) -> str:
    """Return the directory name of the state after an iteration."""
    return f"iteration-{iteration:012d}"


def partial_name(generation: int, iteration: int) -> str:
    """Return the directory name of a checkpoint that is being written."""
    return f".partial-{generation:012d}-{iteration:012d}"


def generation_name(generation: int) -> str:
    """Return the name of the marker file of a generation."""
    return f".generation-{generation:012d}"


def iteration_of(name: str) -> int | None:
    """Return the iteration in a committed checkpoint's name; None for any other name."""
    found = _COMMITTED.fullmatch(name)
    return int(found[1]) if found else None


def generation_of_partial(name: str) -> int | None:
    """Return the generation in a partial checkpoint's name; None for any other name."""
    found = _PARTIAL.fullmatch(name)
    return int(found[1]) if found else None


def generation_of_marker(name: str) -> int | None:
    """Return the generation in a marker's name; None for any other name."""
    found = _GENERATION.fullmatch(name)
    return int(found[1]) if found else None


def server_file(server: int) -> str:
    """Return the name of the file with the rows of one embedding server."""
    return f"server-{server:05d}.h5"


def trainer_file(trainer: int) -> str:
    """Return the name of the file with the cached rows of one trainer."""
    return f"trainer-{trainer:05d}.h5"


def files_of(num_servers: int, num_trainers: int) -> list[str]:
    """Return the files that every checkpoint of this topology has."""
    servers = [server_file(server) for server in range(num_servers)]
    return [*servers, *(trainer_file(trainer) for trainer in range(num_trainers)), DENSE_FILE]


def servers_to_read(server: int, num_servers: int, num_saved_servers: int) -> list[int]:
    """Return the saved servers whose shard may share a key with a server's shard. Server of a key: `key % S`.

    There is a key that equals `server` modulo num_servers and `saved` modulo num_saved_servers if, and only if, both
    agree modulo the greatest common divisor of the two numbers.
    """
    step = gcd(num_servers, num_saved_servers)
    return list(range(server % step, num_saved_servers, step))
