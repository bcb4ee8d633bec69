"""The layout is enforced: every module imports only from its own layer or an earlier one, and few may know MPI, torch
or HDF5. Imports are parsed, not run, so the ones inside functions count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.launch import REPO_ROOT, run_python

PACKAGE = "bagpipe_hpc"

LAYERS = (
    {
        "errors",
        "bounded_json",
        "exit_codes",
        "early_signals",
        "compiled",
        "config",
        "dynamic_rules",
        "strict_yaml",
        "digest",
        "scratch",
        "splitmix",
        "trace",
        "heap",
        "garbage_collection",
        "launcher",
        "cache_hint",
        "hash_table",
        "version",
        "rank_thread",
        "threaded_job",
        "waiting",
        "log",
        "polling",
        "lazy_memory",
        "memory_use",
        "available_memory",
        "pace",
        "fault_words",
        "activity",
    },
    {"topology", "sharding", "batch", "feature_tables", "pipeline", "learning_rate", "row_layout", "initial_rows"},
    {"jobs"},
    {"protocol"},
    {"lookahead"},
    {"data"},
    {"simulation"},
    {"transport"},
    {"checkpoint"},
    {"timeline"},
    {"runtime"},
    {"oracle", "server", "trainer"},
    {"launch"},
    {"report"},
    {"bench", "sizing"},
    {"cli", "__main__"},
)
# Roles do not know each other: what they say stands in protocol/.
ROLES = ("oracle", "server", "trainer")

PERMITTED = {
    "mpi4py": ("launcher", "transport", "bench", "cli.doctor.fabric", "cli.doctor.allocation"),
    "torch": (
        "trainer",
        "checkpoint",
        "cli.doctor",
        "bench.peers",
        "bench.gpu",
        "bench.overhead_plain",
        "bench.next_click.plain",
    ),
    "tensorboardX": ("oracle",),
    "horovod": ("trainer", "checkpoint", "cli.doctor"),
    "h5py": ("data", "checkpoint", "cli.doctor"),
    "pyarrow": ("data",),
    "matplotlib": ("timeline", "bench.peers.picture", "simulation.picture"),
    "libcachesim": ("simulation.policies",),
    "torchrec": ("bench.peers.sharded",),
    "fbgemm_gpu": ("bench.gpu.fbgemm",),
    "triton": ("trainer.device",),
    "altair": ("report", "cli.pages"),
    "vl_convert": ("report.page", "cli.pages"),
    "pynvml": ("trainer.device.gpu_energy",),
    "jinja2": ("report.page", "cli.pages"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPO_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted((REPO_ROOT / PACKAGE).rglob("*.py"))}
MODULES = sorted(SOURCES.keys() - {PACKAGE})


def imports_of(module: str, source: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names of everything a source text imports, names within modules included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = module.split(".")[: None if is_package else -1]
            base = anchor[: len(anchor) + 1 - node.level] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imports(module: str) -> list[str]:
    path = SOURCES[module]
    return list(imports_of(module, path.read_text(encoding="utf-8"), path.name == "__init__.py"))


def imported_modules(module: str) -> set[str]:
    """Modules of the package that a module imports; `from package import name` may mean either."""
    inside = {name for name in imports(module) if name.split(".")[0] == PACKAGE}
    return {name if name in SOURCES else name.rpartition(".")[0] for name in inside}


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    found = [number for number, layer in enumerate(LAYERS) if part in layer]
    assert found, f"{module} is in no layer: put {part!r} into LAYERS here and into the layout of docs/architecture.md"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_or_earlier_layers(module: str) -> None:
    later = {name for name in imported_modules(module) - {PACKAGE} if layer_of(name) > layer_of(module)}
    assert not later, f"{module} imports from a later layer: {sorted(later)}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[1] in ROLES])
def test_roles_do_not_know_each_other(module: str) -> None:
    others = {f"{PACKAGE}.{role}" for role in ROLES} - {".".join(module.split(".")[:2])}
    known = {name for name in imported_modules(module) if ".".join(name.split(".")[:2]) in others}
    assert not known, f"{module} imports from another role: {sorted(known)}"


@pytest.mark.parametrize("module", MODULES)
def test_only_a_few_modules_know_mpi_torch_and_hdf5(module: str) -> None:
    inside = module.removeprefix(f"{PACKAGE}.") + "."
    for third_party in {name.split(".")[0] for name in imports(module)} & PERMITTED.keys():
        permitted = PERMITTED[third_party]
        assert inside.startswith(tuple(f"{part}." for part in permitted)), (
            f"{module} imports {third_party}, which only {', '.join(permitted)} may"
        )


def test_no_import_cycles() -> None:
    graph = {module: imported_modules(module) - {module} for module in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[1] in ("lookahead", "protocol")])
def test_pure_parts_pull_in_no_mpi_torch_or_hdf5(module: str) -> None:
    program = f"import sys, {module}; print(*({set(PERMITTED)} & sys.modules.keys()))"
    done = run_python(["-c", program], timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[1] == "oracle"])
def test_the_oracle_pulls_in_no_mpi(module: str) -> None:
    program = f"import sys, {module}; print(*({{'mpi4py'}} & sys.modules.keys()))"
    done = run_python(["-c", program], timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("source", "is_package", "expected"),
    [
        ("import torch.nn", False, "torch.nn"),
        ("def f():\n    from bagpipe_hpc.a import b", False, "bagpipe_hpc.a.b"),
        ("from . import b", False, "bagpipe_hpc.a.b"),
        ("from .b import c", True, "bagpipe_hpc.a.m.b.c"),
        ("from ..b import c", False, "bagpipe_hpc.b.c"),
    ],
)
def test_the_parser_sees_every_kind_of_import(source: str, is_package: bool, expected: str) -> None:
    assert list(imports_of("bagpipe_hpc.a.m", source, is_package)) == [expected]
