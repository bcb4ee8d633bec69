"""Compare the time per iteration that `bagpipe plan` predicts with that of real jobs between virtual hosts. Root only.

    python -m tests.cluster.predicted_iterations --data DATA --output predicted.json

Oracle and server 0 share a host; every other rank has its own. Links are shaped. The models compute for a given time
without keeping a core busy (paced_model.py), because all hosts share the cores of this machine; the last cases compute
for real. What the prediction needs besides the plans is measured apart from the jobs that it is compared with: each
link by messages between two ranks (programs/link_times.py), computing by a job with one trainer in one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.data.dataset import Dataset, open_dataset
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.sizing.compute_time import ComputeTime, measure
from bagpipe_hpc.sizing.iteration_cost import IterationCost, Links, TrainerCost, cost_of
from bagpipe_hpc.sizing.workload import Choice, play_plans
from tests.cluster.hosts import VirtualCluster

ITERATIONS = 36
LINK_TIMES = str(Path(__file__).with_name("programs") / "link_times.py")
HIDDEN = 64  # neurons of the paced model


@dataclass(frozen=True)
class Case:
    """A job.

    Args:
        mbit: The rate of every link.
        trainers, servers: T and S.
        samples: Of each trainer and iteration.
        dim: Columns of a row.
        window, prefetch_depth: L and P.
        mode: cached or synchronous.
        milliseconds: Time of the passes of the paced model; None: the default model computes on the CPU.
    """

    mbit: float
    trainers: int
    servers: int
    samples: int = 1024
    dim: int = 16
    window: int = 32
    prefetch_depth: int = 4
    mode: str = "cached"
    milliseconds: float | None = 60.0

    @property
    def hosts(self) -> tuple[int, ...]:
        """The number of the host of each rank."""
        return (0, *range(self.servers + self.trainers))

    @property
    def settings(self) -> list[str]:
        """The settings of the job."""
        paced = []
        if self.milliseconds is not None:
            arguments = {"hidden": HIDDEN, "seconds_per_sample": self.milliseconds / 1e3 / self.samples}
            paced = ["model.factory=tests.cluster.paced_model:build", f"model.arguments={json.dumps(arguments)}"]
        return [
            *paced,
            f"mode={self.mode}",
            f"model.embedding_dim={self.dim}",
            f"roles.servers={self.servers}",
            f"lookahead.window={self.window}",
            f"lookahead.prefetch_depth={self.prefetch_depth}",
            f"training.batch_size={self.samples * self.trainers}",
            f"training.iterations={ITERATIONS}",
            "training.epochs=100",
            "training.threads=1",
            "dense.backend=mpi",
            "cache.rows=200000",
            "evaluation.enabled=false",
            "checkpoint.enabled=false",
        ]


CASES = (
    Case(100, 2, 1),
    Case(100, 2, 1, mode="synchronous"),
    Case(100, 1, 1, mode="synchronous", milliseconds=30),
    Case(100, 3, 2, window=16, prefetch_depth=2),
    Case(200, 2, 2, dim=48),
    Case(200, 2, 1, dim=48, mode="synchronous"),
    Case(300, 3, 1, dim=48),
    Case(300, 3, 2, dim=48, mode="synchronous"),
    Case(500, 2, 1, dim=48, prefetch_depth=0),
    Case(500, 1, 2, samples=2048, dim=48, milliseconds=120),
    Case(1000, 2, 1, dim=48, mode="synchronous", milliseconds=60),
    Case(1000, 3, 1, dim=48, milliseconds=100),
    Case(100, 1, 1, samples=2048, dim=16, milliseconds=None),
    Case(200, 1, 1, samples=2048, dim=16, mode="synchronous", milliseconds=None),
)


@dataclass(frozen=True)
class LinkFigures:
    """What a link does, as two ranks measure it."""

    bytes_per_second: float
    latency_seconds: float
    burst_bytes: float
    exchange_factor: float


@dataclass(frozen=True)
class Compared:
    """A prediction and a measurement of the same job."""

    case: Case
    predicted: float
    measured: float
    bottlenecks: tuple[str, str]
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Of the prediction, relative to the measurement."""
        return self.predicted / self.measured - 1


def link_figures(one_way: dict[int, float], both_ways: dict[int, float]) -> LinkFigures:
    """Return the line through the times of the two larger messages, and how much longer both directions take."""
    (_, least), (small, first), (large, second) = sorted(one_way.items())
    rate = (large - small) / (second - first)
    burst = max(0.0, small - rate * (first - least))
    alone = [least + max(0.0, size - burst) / rate for size in both_ways]
    factor = sum(both_ways.values()) / sum(alone)
    return LinkFigures(rate, least / 2, burst, max(1.0, factor))


@cache
def measure_link(mbit: float) -> LinkFigures:
    with VirtualCluster(2, rate_mbit=mbit) as cluster:
        done = cluster.run_ranks(["bp0", "bp1"], [LINK_TIMES], timeout=120)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    times = {name: {int(n): t for n, t in found.items()} for name, found in json.loads(done.stdout).items()}
    return link_figures(times["one_way"], times["both_ways"])


@cache
def measure_compute(data: Path, samples: int, dim: int, milliseconds: float | None) -> ComputeTime:
    """Measure what the core does, and add the time of the pauses."""
    case = Case(1, 1, 1, samples=samples, dim=dim, milliseconds=None if milliseconds is None else 0.0)
    worked = measure(load_config(None, case.settings), data, samples)
    return replace(worked, seconds=worked.seconds + (milliseconds or 0.0) / 1e3)


def batches_of(dataset: Dataset, batch_size: int) -> list[Batch]:
    """Return the batches that a job trains on."""
    passes: Iterator[Iterator[Batch]] = (dataset.train.batches(batch_size) for _ in repeat(None))
    return list(islice(chain.from_iterable(passes), ITERATIONS))


def predict(case: Case, config: Config, dataset: Dataset, compute: ComputeTime, link: LinkFigures) -> IterationCost:
    choice = Choice(
        case.trainers, case.servers, config.training.batch_size, config.window, config.prefetch_depth, 200_000
    )
    workload = play_plans(batches_of(dataset, config.training.batch_size), dataset.schema, choice)
    width = dataset.schema.num_dense + dataset.schema.num_tables * case.dim
    parameters = HIDDEN * (width + 2) + 1
    cost = TrainerCost(
        compute_seconds=compute.of(case.samples),
        dense_bytes=4.0 * parameters if case.trainers > 1 else 0.0,
        row_bytes=4 * row_width(config),
        wire_bytes=4 * config.model.row_dim,
        is_overlapped=config.is_overlapped,
    )
    links = Links(
        link.bytes_per_second,
        link.latency_seconds,
        case.hosts,
        link.burst_bytes,
        link.exchange_factor,
        echoes_gets=True,
    )
    return cost_of(workload, cost, links)


def run_job(case: Case, data: Path, directory: Path) -> dict[str, Any]:
    """Train, and return the summary."""
    names = [f"bp{host}" for host in case.hosts]
    settings = [word for setting in case.settings for word in ("--set", setting)]
    command = ["-m", "bagpipe_hpc", "train", "--data", str(data), "--run-dir", str(directory), *settings]
    with VirtualCluster(1 + max(case.hosts), rate_mbit=case.mbit) as cluster:
        done = cluster.run_ranks(names, command, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text("utf-8"))
    return summary


def compare(case: Case, data: Path) -> Compared:
    config, dataset = load_config(None, case.settings), open_dataset(data)
    link, compute = measure_link(case.mbit), measure_compute(data, case.samples, case.dim, case.milliseconds)
    cost = predict(case, config, dataset, compute, link)
    with tempfile.TemporaryDirectory() as directory:
        summary = run_job(case, data, Path(directory) / "run")
    kept = {
        name: summary[name] for name in ("milliseconds_per_iteration", "milliseconds_meanwhile", "working_milliseconds")
    }
    detail = {"cost": asdict(cost), "link": asdict(link), "compute": asdict(compute), **kept}
    return Compared(case, cost.seconds, summary["steady_milliseconds"] / 1e3, cost.bottlenecks, detail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set without ragged features")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--cases", default="", help="numbers of cases from 0 on, with commas; default: all")
    arguments = parser.parse_args()
    chosen = [int(word) for word in arguments.cases.split(",") if word] or range(len(CASES))
    found = []
    print(
        "| Mbit/s | T | S | b | dim | L, P | mode | compute, ms | measured, ms | predicted, ms | error | bottleneck |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for number in chosen:
        case = CASES[number]
        done = compare(case, arguments.data)
        found.append({"error": done.error, **asdict(done)})
        computing = done.detail["cost"]["seconds_by_wait"]["computing"]
        print(
            f"| {case.mbit:g} | {case.trainers} | {case.servers} | {case.samples:,} | {case.dim} | {case.window}, "
            f"{case.prefetch_depth} | {case.mode} | {1e3 * computing:.0f} | {1e3 * done.measured:.1f} | "
            f"{1e3 * done.predicted:.1f} | {done.error:+.0%} | {', then '.join(done.bottlenecks)} |",
            flush=True,
        )
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=2), encoding="utf-8")
    within = sum(abs(each["error"]) <= 0.2 for each in found)
    print(f"{within} of {len(found)} within 20 %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
