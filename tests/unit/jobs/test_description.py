"""A description takes what can be a job, and nothing that a shell or a batch system could read as something else."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.jobs.description import JobDescription, describe


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": "a b"}, "name = 'a b': give 1 to 64 letters"),
        ({"name": "a\n#SBATCH --uid=0"}, "give 1 to 64 letters"),
        ({"account": "$(reboot)"}, "give 1 to 64 letters"),
        ({"queue": "-x"}, "give 1 to 64 letters"),
        ({"data": "~/clicks"}, "data = '~/clicks': give a path"),
        ({"run_dir": "--help"}, "give a path"),
        ({"venv": "a\nb"}, "give a path"),
        ({"settings": ("training.epochs",)}, r"settings\.0 = 'training.epochs': give section\.key=value"),
        ({"settings": ("a=b\nreboot",)}, r"give section\.key=value"),
        ({"time_limit": "4h"}, "time_limit = '4h': give HH:MM:SS"),
        ({"time_limit": "00:05:00"}, "lower warning_seconds or raise time_limit"),
        ({"nodes": 0}, "nodes = 0: must be at least 1$"),
        ({"nodes": "many"}, "nodes = 'many': must be an integer$"),
        ({"system": "sge"}, "system = 'sge': must be 'slurm', 'pbs', 'lsf' or 'flux'$"),
        ({"nodes": 4, "min_nodes": 5}, "min_nodes is 5, nodes 4"),
        ({"nodes": 4, "trainers_per_node": 2, "blocks": 12}, "blocks is 12: give a power of two, such as 8 or 16"),
        ({"nodes": 3, "trainers_per_node": 1, "blocks": 8}, "for one of 1, 2, 4, 8, or other blocks"),
        ({"nodes": 4, "trainers_per_node": 2, "blocks": 4}, "blocks is 4, and all nodes together have 8"),
        ({"template": "bench", "blocks": 16}, "bench does not train: blocks exists only for templates that do"),
        ({"system": "pbs", "min_nodes": 1}, "min_nodes exists only for slurm"),
        ({"system": "pbs", "template": "bench"}, "exists only for slurm"),
        ({"system": "lsf", "sweep": ("training.seed=1",)}, "a sweep needs slurm"),
        ({"template": "import", "sweep": ("training.seed=1",)}, "a sweep needs slurm"),
        ({"node": 3}, r"unknown field 'node' \(did you mean nodes\?\)$"),
        ({"qos": "a b"}, "qos = 'a b': give 1 to 64 letters"),
        ({"constraint": "a100\n#SBATCH --uid=0"}, "give an expression of letters"),
        ({"constraint": '"x" y'}, "give an expression of letters"),
        ({"memory": "lots"}, "memory = 'lots': give a number and K, M, G or T"),
        ({"system": "pbs", "qos": "high"}, "qos exists only for slurm; remove it"),
        ({"system": "pbs", "constraint": "a100"}, "constraint exists only for slurm and lsf and flux"),
        ({"system": "lsf", "memory": "64G"}, "memory exists only for slurm and pbs"),
        ({"site_lines": ("module load a\nreboot",)}, r"site_lines\.0 = .*give one line"),
        ({"template": "import", "importer": "table"}, "if, and only if, the importer is table"),
        ({"template": "import", "schema_file": "s.yaml"}, "importer is criteo, schema_file s.yaml"),
    ],
)
def test_what_is_no_job(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        describe(fields)


def test_settings_of_tables_with_names_of_their_own() -> None:
    settings = ("tables.C14.embedding_dim=8", "tables.my-table.pooling=mean", "tensorboard=true")
    assert describe({"settings": settings}).settings == settings


@pytest.mark.parametrize("nodes", range(1, 6))
@pytest.mark.parametrize("servers", range(1, 9))
@pytest.mark.parametrize("gpus_per_node", range(4))
def test_ranks_dealt_out_one_at_a_time_give_every_node_its_trainers(
    nodes: int, servers: int, gpus_per_node: int
) -> None:
    job = JobDescription(nodes=nodes, servers=servers, gpus_per_node=gpus_per_node)
    ranks_of_node = [range(node, job.num_ranks, nodes) for node in range(nodes)]
    assert max(map(len, ranks_of_node)) == job.max_ranks_per_node
    for ranks in ranks_of_node:
        assert sum(rank > servers for rank in ranks) == max(gpus_per_node, 1)
