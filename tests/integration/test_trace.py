"""A traced job: every rank, every iteration, arrows that end where they must; the numbers are those without a trace."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.timeline.merge import merged_file, rank_file
from bagpipe_hpc.trace import Event, read_trace
from tests.launch import run_python, run_ranks

ITERATIONS, EVALUATIONS = 30, 20
SETTINGS = ["training.epochs=2", f"training.iterations={ITERATIONS}", "training.batch_size=50", "training.threads=1"]
TRAIN = [part for setting in SETTINGS for part in ("--set", setting)]
SPANS = {
    0: {"read batch", "enter batch", "plan", "encode", "plan wait", "receiver wait", "send", "metrics"},
    1: {"receive plan", "written wait", "scatter", "gather", "announce"},
    2: {"receive plan", "ready wait", "get", "queue wait", "plan wait", "prefetch wait", "iteration", "evaluation",
        "exchange", "cache", "compute", "update", "dense", "delayed wait", "start", "finish", "insert", "early pushes",
        "delayed gradients", "drain", "write back", "checkpoint"},
}  # fmt: skip
SPANS[3] = SPANS[2]
ONLY_TRAINING, ONLY_EVALUATION = {"iteration", "dense", "update", "delayed gradients"}, {"evaluation"}


def train(dataset: Path, run_path: Path, *options: str) -> str:
    arguments = ["-m", "bagpipe_hpc", "train", "--data", str(dataset), "--run-dir", str(run_path), *TRAIN, *options]
    done = run_ranks(4, arguments, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads((run_path / "summary.json").read_text())["model_digest"])


@pytest.fixture(scope="module")
def traced(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run_path = tmp_path_factory.mktemp("traced")
    return run_path, train(small_dataset, run_path, "--trace")


def spans_of(events: list[Event]) -> dict[int, list[Event]]:
    spans = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            spans[event["pid"]].append(event)
    return spans


def test_every_rank_traces_every_iteration(traced: tuple[Path, str]) -> None:
    events, header = read_trace(merged_file(traced[0]))
    assert header["ranks"] == [0, 1, 2, 3]
    assert (header["dropped"], header["clock_error_us"]) == (0, 0)
    for rank, spans in spans_of(events).items():
        iterations: defaultdict[str, set[Any]] = defaultdict(set)
        for span in spans:
            iterations[span["name"]].add(span["args"].get("iteration"))
        assert iterations.keys() == SPANS[rank]
        for name, found in iterations.items():
            if name == "checkpoint":
                assert found == {ITERATIONS - 1}
                continue
            if name == "metrics":  # of all batches of an evaluation
                assert found == {None}
                continue
            first = ITERATIONS if name in ONLY_EVALUATION else 0
            last = ITERATIONS if name in ONLY_TRAINING else ITERATIONS + EVALUATIONS
            assert found - {None} == set(range(first, last)), (rank, name)


def test_spans_of_a_thread_nest(traced: tuple[Path, str]) -> None:
    events, _ = read_trace(merged_file(traced[0]))
    for spans in spans_of(events).values():
        for tid in {span["tid"] for span in spans}:
            open_until: list[float] = []
            for span in (span for span in spans if span["tid"] == tid):
                while open_until and open_until[-1] <= span["ts"] + 1e-6:
                    open_until.pop()
                open_until.append(span["ts"] + span["dur"])
                assert open_until == sorted(open_until, reverse=True), span


def test_arrows_lead_from_every_plan_to_its_use(traced: tuple[Path, str]) -> None:
    events, _ = read_trace(merged_file(traced[0]))
    flows = {ph: {event["id"]: event for event in events if event["ph"] == ph} for ph in "sf"}
    assert flows["s"].keys() == flows["f"].keys()
    arrows = defaultdict(list)
    for number, start in flows["s"].items():
        assert start["ts"] < flows["f"][number]["ts"]
        arrows[start["args"]["iteration"]].append((start["name"], start["pid"], flows["f"][number]["pid"]))
    expected = [
        ("plan", 0, 1),
        ("plan", 0, 2),
        ("plan", 0, 3),
        ("rows", 1, 2),
        ("rows", 1, 3),
        ("use", 2, 2),
        ("use", 3, 3),
    ]
    assert {iteration: sorted(found) for iteration, found in arrows.items()} == dict.fromkeys(
        range(ITERATIONS + EVALUATIONS), expected
    )


def test_threads_have_names(traced: tuple[Path, str]) -> None:
    events, _ = read_trace(merged_file(traced[0]))
    names = {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "thread_name"}
    assert {(0, "main"), (0, "read batch"), (1, "main"), (2, "main"), (2, "prefetch"), (3, "main")} <= names
    (process,) = (event for event in events if event["name"] == "process_name" and event["pid"] == 2)
    assert process["args"]["name"].startswith("trainer 0 (rank 2, ")


def test_the_report(traced: tuple[Path, str]) -> None:
    picture = traced[0] / "timeline.png"
    options = ["--format", "json", "--timeline", str(picture)]
    done = run_python(["-m", "bagpipe_hpc", "report", str(traced[0]), *options], timeout=60)
    assert done.returncode == 0, done.stderr
    assert "trainer main" in done.stdout
    (tree,) = json.loads((traced[0] / "report.json").read_text())
    assert {row["iteration"] for row in tree["milliseconds_by_cause"]} == {20, ITERATIONS}
    assert {row["path"] for row in tree["bytes_per_iteration"]} >= {"servers to trainers", "dense gradients"}
    assert {row["rank"] for row in tree["memory"]} == {"oracle", "server 0", "trainer 0", "trainer 1"}
    assert picture.stat().st_size > 10_000


def test_a_trace_changes_no_number(small_dataset: Path, tmp_path: Path, traced: tuple[Path, str]) -> None:
    old = rank_file(tmp_path, 0)
    old.parent.mkdir()
    old.write_text("of an earlier run")
    merged_file(tmp_path).write_text("of an earlier run")
    assert train(small_dataset, tmp_path) == traced[1]
    assert not old.exists()
    assert not merged_file(tmp_path).exists()


def test_chosen_iterations_and_the_reference_transport(small_dataset: Path, tmp_path: Path) -> None:
    train(small_dataset, tmp_path, "--trace-iterations", "5:7", "--set", "transport=direct")
    events, _ = read_trace(merged_file(tmp_path))
    iterations = {event["args"].get("iteration") for event in events if event["ph"] in "Xsf"}
    assert iterations - {None} == {5, 6}
    assert {event["name"] for event in events if event["ph"] == "s"} == {"plan", "rows", "use"}


def test_a_failed_job_leaves_what_the_rank_that_failed_did(small_dataset: Path, tmp_path: Path) -> None:
    run_path = tmp_path / "run"
    options = ["--trace", *TRAIN, "--set", "cache.rows=1"]
    arguments = ["-m", "bagpipe_hpc", "train", "--data", str(small_dataset), "--run-dir", str(run_path), *options]
    done = run_ranks(3, arguments, timeout=120)
    assert done.returncode != 0
    events, _ = read_trace(rank_file(run_path, 0))
    assert {"read batch", "enter batch"} <= {event["name"] for event in events}
