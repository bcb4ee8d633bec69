"""A job that goes on from a checkpoint: to the bit as one never stopped, in any topology."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.export import export
from bagpipe_hpc.data.dataset import open_dataset
from tests.integration.jobs import command, digest_of, summary_of, train
from tests.launch import REPO_ROOT, run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
COMMON = ["training.epochs=3", "training.batch_size=50", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "lookahead.window=8"]
EVERY = ["checkpoint.every=10", "checkpoint.full_every=3", "checkpoint.keep_last=100"]
END = 60  # iterations
Job = dict[str, Any]


def job(*settings: str, run: str, resume: Path | str | None = None) -> Job:
    return {"set": [*COMMON, *settings], "run": run, "resume": resume if resume is None else str(resume)}


def run_jobs(num_ranks: int, dataset: Path, out: Path, jobs: list[Job]) -> tuple[list[int], str]:
    """Exit codes, and all that was written to standard output and standard error."""
    (out / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(num_ranks, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "codes.json").read_text()), done.stdout + done.stderr


def iteration(out: Path, run: str, number: int) -> Path:
    return out / run / "checkpoints" / f"iteration-{number:012d}"


def finish_all(num_ranks: int, dataset: Path, out: Path, jobs: list[Job]) -> None:
    codes, output = run_jobs(num_ranks, dataset, out, jobs)
    assert codes == [0] * len(jobs), output


def losses(out: Path, run: str) -> list[tuple[int, float]]:
    lines = (out / run / "metrics.jsonl").read_text().splitlines()
    return [(line["iteration"], line["loss"]) for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def whole(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One server and two trainers, not stopped; a checkpoint every 10 iterations, each where the one before is done."""
    out = tmp_path_factory.mktemp("whole")
    finish_all(4, small_dataset, out, [job(*EVERY, run="whole")])
    return out


def saved_iterations(out: Path, run: str) -> list[int]:
    return [
        int(path.name.removeprefix("iteration-")) for path in sorted((out / run / "checkpoints").glob("iteration-*"))
    ]


def test_a_finished_run_leaves_its_model(whole: Path) -> None:
    summary = summary_of(whole / "whole")
    assert digest_of(whole / "whole" / "checkpoints") == summary["model_digest"]
    assert (whole / "whole" / "DONE").read_text() == f"{END}\n"
    assert summary["checkpoints"]["written"] + summary["checkpoints"]["skipped"] == END // 10
    assert saved_iterations(whole, "whole")[-1] == END


def test_going_on_equals_never_stopping(small_dataset: Path, whole: Path, tmp_path: Path) -> None:
    """From a full checkpoint, an increment, the end; with other windows, caches, the reference transport."""
    points = [*saved_iterations(whole, "whole")[:2], END]
    jobs = [job(run=f"from-{point}", resume=iteration(whole, "whole", point)) for point in points]
    first = iteration(whole, "whole", points[0])
    others = [
        ["lookahead.window=64", "transport=direct"],
        ["lookahead.window=2", "cache.rows=180", "lookahead.prefetch_depth=1"],
        ["mode=synchronous"],
    ]
    jobs += [job(*settings, run=" ".join(settings), resume=first) for settings in others]
    finish_all(4, small_dataset, tmp_path, jobs)
    expected = summary_of(whole / "whole")
    for going_on in jobs:
        found = summary_of(tmp_path / going_on["run"])
        for name in ("model_digest", "validation_auc", "validation_log_loss", "loss", "rows_touched", "iterations"):
            assert found[name] == expected[name], (going_on["run"], name)
        assert losses(tmp_path, going_on["run"]) == losses(whole, "whole")
    assert summary_of(tmp_path / f"from-{END}")["samples"] == 0


def test_another_number_of_servers_changes_nothing(small_dataset: Path, whole: Path, tmp_path: Path) -> None:
    resumed = job(
        "roles.servers=2", run="resumed", resume=iteration(whole, "whole", saved_iterations(whole, "whole")[0])
    )
    finish_all(5, small_dataset, tmp_path, [resumed])
    assert summary_of(tmp_path / "resumed")["model_digest"] == summary_of(whole / "whole")["model_digest"]


def load_only(name: str, checkpoint: Path, num_servers: int) -> Job:
    """A job that goes on where it ends at once."""
    stay = ["training.iterations=20", "checkpoint.enabled=false", "evaluation.enabled=false"]
    return job(*stay, f"roles.servers={num_servers}", run=name, resume=checkpoint)


def test_other_topologies_load_the_same_model(small_dataset: Path, tmp_path: Path) -> None:
    """The digest right after loading, across 1 to 3 servers and 3 to 1 trainers; and training goes on."""
    saved: dict[str, Path] = {}
    # Horovod knows one number of trainers per process: a world for each.
    for number, servers in enumerate((1, 3, 2, 1)):
        loads = [load_only(f"{number} loads {name}", path, servers) for name, path in saved.items()]
        name = f"{number} saves"
        jobs = [*loads, job(*EVERY, f"roles.servers={servers}", "training.iterations=20", run=name)]
        if saved:
            on = ["training.iterations=25", f"roles.servers={servers}"]
            jobs.append(job(*on, run=f"{number} goes on", resume=next(reversed(saved.values()))))
        finish_all(5, small_dataset, tmp_path, jobs)
        for other, path in saved.items():
            loaded = summary_of(tmp_path / f"{number} loads {other}")
            assert (loaded["first_iteration"], loaded["samples"]) == (20, 0)
            assert loaded["model_digest"] == summary_of(tmp_path / other)["model_digest"] == digest_of(path)
        if saved:
            assert summary_of(tmp_path / f"{number} goes on")["samples"] == 5 * 50
        saved[name] = tmp_path / name / "checkpoints"


def test_placed_and_shuffled_samples_and_models_with_wider_rows(small_dataset: Path, tmp_path: Path) -> None:
    every = ["checkpoint.every=25", "checkpoint.keep_last=9"]
    kinds = {"locality": ["oracle.placement=locality"], "deepfm": ["model.name=deepfm"], "fgcnn": ["model.name=fgcnn"]}
    kinds["shuffled"] = ["training.shuffle_block=64"]
    jobs = [job(*settings, *every, run=name) for name, settings in kinds.items()]
    jobs += [job(*settings, run=f"{name}-on", resume=iteration(tmp_path, name, 25)) for name, settings in kinds.items()]
    finish_all(4, small_dataset, tmp_path, jobs)
    for name in kinds:
        summary = summary_of(tmp_path / name)
        assert summary_of(tmp_path / f"{name}-on")["model_digest"] == summary["model_digest"]
        assert digest_of(tmp_path / name / "checkpoints") == summary["model_digest"]


def test_a_trained_model_is_evaluated_and_predicts(small_dataset: Path, whole: Path, tmp_path: Path) -> None:
    """With other ranks than it was trained with."""
    checkpoints = str(whole / "whole" / "checkpoints")
    arguments = ["--data", str(small_dataset), "--set", "roles.servers=2", "--set", "evaluation.batch_size=77"]
    train(5, ["-m", "bagpipe_hpc", "eval", checkpoints, *arguments, "--run-dir", str(tmp_path / "eval")])
    expected, found = summary_of(whole / "whole"), summary_of(tmp_path / "eval")
    assert found["model_digest"] == expected["model_digest"]
    assert found["samples"] == 0
    # Predictions of other batches may differ in the last bits: kernels sum differently.
    for name in ("auc", "log_loss", "normalised_entropy", "calibration"):
        assert found[f"validation_{name}"] == pytest.approx(expected[f"validation_{name}"], abs=1e-5)
    output = tmp_path / "clicks.npy"
    train(3, ["-m", "bagpipe_hpc", "predict", checkpoints, *arguments[:2], "--output", str(output), "--split", "train",
              "--run-dir", str(tmp_path / "predict")])  # fmt: skip
    predicted = np.load(output)
    dataset = open_dataset(small_dataset)
    labels = dataset.train.read(0, dataset.train.num_samples).labels
    assert predicted.dtype == np.float32
    assert predicted.shape == labels.shape
    auc = summary_of(tmp_path / "predict")["validation_auc"]
    assert float(binary_auroc(torch.from_numpy(predicted), torch.from_numpy(labels).int())) == pytest.approx(auc)
    assert auc > 0.75

    # The program that docs/export.md shows predicts the same.
    program = (REPO_ROOT / "docs" / "export.md").read_text().partition("```python\n")[2].partition("```")[0]
    export(Checkpoint.open(Path(checkpoints)), tmp_path / "model.safetensors", "safetensors")
    (tmp_path / "predict.py").write_text(program)
    files = [tmp_path / "model.safetensors", small_dataset / "train", tmp_path / "plain.npy"]
    done = run_python([str(tmp_path / "predict.py"), *map(str, files)], timeout=90)
    assert done.returncode == 0, done.stderr
    assert "import bagpipe_hpc" not in program
    assert "from bagpipe_hpc" not in program
    np.testing.assert_allclose(np.load(tmp_path / "plain.npy"), predicted, rtol=1e-5, atol=1e-7)


def test_more_epochs_go_on_where_training_ended(small_dataset: Path, whole: Path, tmp_path: Path) -> None:
    longer = ["training.epochs=4"]
    jobs = [job(*longer, run="at-once"), job(*longer, run="later", resume=whole / "whole" / "checkpoints")]
    finish_all(4, small_dataset, tmp_path, jobs)
    assert summary_of(tmp_path / "later")["model_digest"] == summary_of(tmp_path / "at-once")["model_digest"]


def test_what_contradicts_a_checkpoint_is_named(small_dataset: Path, whole: Path, tmp_path: Path) -> None:
    wrong = {
        "model.embedding_dim=4": "model.embedding_dim is 8 in the checkpoint, 4 in the job",
        "model.name=dcn": "model.name is 'dlrm' in the checkpoint, 'dcn' in the job",
        "model.top_mlp=[128]": "model.settings.top_mlp has 2 entries in the checkpoint, 1 in the job",
        "row_optimizer.name=rowwise_adagrad": "model.row_state has 0 entries in the checkpoint, 1 in the job",
        "dense_optimizer.name=ADAM": "model.dense_optimizer is 'sgd' in the checkpoint, 'adam' in the job",
        "dense_optimizer.arguments.momentum=0.9": "dense_optimizer_settings.momentum is None in the checkpoint, 0.9",
        "training.seed=9": "model.seed is 0 in the checkpoint, 9 in the job",
    }
    checkpoints = whole / "whole" / "checkpoints"
    jobs = [job(setting, run="refused", resume=checkpoints) for setting in wrong]
    jobs += [job(run="refused", resume=tmp_path / "nowhere")]
    within_an_epoch = iteration(whole, "whole", saved_iterations(whole, "whole")[0])
    jobs += [job("training.shuffle_block=64", run="refused", resume=within_an_epoch)]
    codes, output = run_jobs(3, small_dataset, tmp_path, jobs)
    assert codes == [2] * len(jobs), output
    missing = "nowhere/manifest.json does not exist"
    shuffled = "training.shuffle_block is None in the checkpoint, 64 in the job"
    for words in [*wrong.values(), missing, shuffled]:
        assert words in output


def test_a_fresh_start_leaves_checkpoints_alone(small_dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "iteration-000000000007").mkdir(parents=True)
    done = run_ranks(3, command(small_dataset, run_dir), timeout=90)
    assert done.returncode == 2, done.stderr
    assert "iteration-000000000007: go on with --resume auto (in Python: " in done.stderr


def test_resume_auto_without_a_checkpoint_starts_afresh(small_dataset: Path, tmp_path: Path) -> None:
    arguments = command(small_dataset, tmp_path / "run", "training.iterations=3", options=("--resume", "auto"))
    assert "has no good checkpoint: training starts afresh" in train(3, arguments)
