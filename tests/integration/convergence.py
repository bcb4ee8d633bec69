"""Models on real clicks: four ranks with lookahead against plain single-process PyTorch, by the same metrics.

python -m tests.integration.convergence [--clicks FILE] [--models dlrm,deepfm] [--set section.key=value]

Both start from the same rows and parameters and see the same batches in the same order. The plain one has an
nn.Embedding per table (plain_training.py) and knows nothing of planning, caching and trainers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import open_dataset
from tests.conftest import TEMPORARY
from tests.integration.jobs import finish, summary_of
from tests.integration.plain_training import PlainModel, read_split
from tests.launch import run_python, run_ranks
from tests.parts import CLICK_LOGS

CLICKS = CLICK_LOGS / "criteo_kaggle_110k.txt.gz"
MODELS = ("dlrm", "wide_deep", "deepfm", "dcn_v2")
NUM_RANKS = 4  # oracle, server, two trainers
PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
SETTINGS = ["model.embedding_dim=16", "training.batch_size=512", "training.threads=1"]
SETTINGS += ["row_optimizer.name=adagrad", "row_optimizer.learning_rate=0.05"]
SETTINGS += ["dense_optimizer.name=adam", "dense_optimizer.learning_rate=0.001"]
TIMEOUT = 300.0


@dataclass(frozen=True)
class Quality:
    """On the validation split."""

    auc: float
    log_loss: float


@dataclass(frozen=True)
class Comparison:
    """One model, trained both ways."""

    model: str
    plain: Quality
    ours: Quality

    @property
    def auc_difference(self) -> float:
        """Ours less plain."""
        return self.ours.auc - self.plain.auc


def import_clicks(clicks: Path, dataset: Path) -> None:
    """Make the data set."""
    finish(
        run_python(["-m", "bagpipe_hpc", "import", "criteo", str(clicks), "--output", str(dataset)], timeout=TIMEOUT)
    )


def compare(dataset: Path, out: Path, models: Sequence[str], settings: Sequence[str] = ()) -> list[Comparison]:
    """Train models both ways; run directories go into `out`."""
    jobs = {model: [*SETTINGS, *settings, f"model.name={model}"] for model in models}
    plain = [train_plainly(dataset, job) for job in jobs.values()]
    return [Comparison(*each) for each in zip(models, plain, train_on_ranks(dataset, out, jobs), strict=True)]


def train_on_ranks(dataset: Path, out: Path, jobs: Mapping[str, Sequence[str]]) -> list[Quality]:
    """What `mpirun bagpipe train` makes of settings, by run directory; one launch for all."""
    (out / "jobs.json").write_text(json.dumps([{"run": run, "set": settings} for run, settings in jobs.items()]))
    finish(run_ranks(NUM_RANKS, [PROGRAM, str(dataset), str(out), str(out / "jobs.json")], timeout=TIMEOUT))
    assert json.loads((out / "codes.json").read_text()) == [0] * len(jobs)
    summaries = [summary_of(out / run) for run in jobs]
    return [Quality(summary["validation_auc"], summary["validation_log_loss"]) for summary in summaries]


def train_plainly(dataset: Path, settings: Sequence[str]) -> Quality:
    """By a loop over batches."""
    config = load_config(None, list(settings))
    assert (config.row_optimizer.name, config.dense_optimizer.name) == ("adagrad", "adam")
    torch.set_num_threads(1)
    samples, (expected, *validation) = read_split(dataset, "train"), read_split(dataset, "validation")
    schema = open_dataset(dataset).schema
    model = PlainModel(config.model, schema.num_embeddings, schema.num_dense)
    optimizers = [
        torch.optim.Adagrad(model.tables.parameters(), lr=config.row_learning_rate),
        torch.optim.Adam(model.dense.parameters(), lr=config.dense_learning_rate),
    ]
    columns = [column.split(config.training.batch_size) for column in samples]
    batches = (batch for _ in range(config.training.epochs) for batch in zip(*columns, strict=True))
    for labels, dense, ids in islice(batches, config.training.iterations):
        model.zero_grad()
        functional.binary_cross_entropy_with_logits(model(dense, ids), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        logits = model(*validation)
    auc = binary_auroc(logits.sigmoid(), expected.int())
    return Quality(float(auc), float(functional.binary_cross_entropy_with_logits(logits, expected)))


def table_of(comparisons: Sequence[Comparison]) -> Table:
    """For people."""
    table = Table("model")
    for name in ("AUC, plain", "AUC", "difference", "log loss, plain", "log loss"):
        table.add_column(name, justify="right")
    for each in comparisons:
        plain, ours = each.plain, each.ours
        aucs = f"{plain.auc:.5f}", f"{ours.auc:.5f}", f"{each.auc_difference:+.5f}"
        table.add_row(each.model, *aucs, f"{plain.log_loss:.5f}", f"{ours.log_loss:.5f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=Path, default=CLICKS, help="lines as of Criteo's")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--set", action="append", default=[], help="as of bagpipe train, after those here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as directory:
        out = Path(directory)
        import_clicks(options.clicks, out / "data")
        Console().print(table_of(compare(out / "data", out, options.models.split(","), options.set)))


if __name__ == "__main__":
    main()
