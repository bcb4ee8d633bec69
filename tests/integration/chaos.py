"""A job whose ranks are killed at random moments, and that goes on each time; the model must be that of a quiet run.

python -m tests.integration.chaos [--kills 200] [--seed 0] [--resize]
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import TEMPORARY
from tests.integration.conftest import make_dataset
from tests.integration.jobs import command, finish, summary_of
from tests.launch import Run, run_ranks, start_ranks

TOPOLOGY = (1, 2)  # servers, trainers
SETTINGS = ["training.batch_size=10", "training.epochs=1000000", "training.threads=1", "lookahead.window=16"]
SETTINGS += ["checkpoint.every=5", "checkpoint.full_every=4", "evaluation.enabled=false", "model.embedding_dim=8"]
RESIZED = [(servers, trainers) for servers in (1, 2, 3) for trainers in (1, 2, 4)]
RESIZED_SETTINGS = ["training.blocks=4", "row_optimizer.name=adagrad", "oracle.placement=locality"]
RESUME = ("--resume", "auto")
LIFE_SECONDS = 120.0


@dataclass
class Story:
    """What happened."""

    kills: list[str] = field(default_factory=list)  # of each: the rank, and what the job did
    seconds: list[float] = field(default_factory=list)  # from each start to the kill
    iterations: list[int] = field(default_factory=list)  # the newest checkpoint after each
    digest: str = ""
    expected: str = ""

    def __str__(self) -> str:
        while_saving = sum("saving" in kill for kill in self.kills)
        progress = [b - a for a, b in zip([0, *self.iterations], self.iterations, strict=False)]
        mean_seconds = sum(self.seconds) / len(self.seconds)
        return (
            f"{len(self.kills)} kills, {while_saving} of them during a checkpoint; {sum(p > 0 for p in progress)} "
            f"lives got further, up to iteration {self.iterations[-1]}; a life was {mean_seconds:.1f} s\n"
            f"model digest {self.digest}, of the quiet run {self.expected}"
        )


def cause_chaos(dataset: Path, out: Path, num_kills: int, seed: int, *, resize: bool = False) -> Story:
    """Run an endless job, killed so often; then let it end, and run it quietly up to the same iteration.

    If it is resized, every life has numbers of servers and trainers of its own.
    """
    dice, story = random.Random(seed), Story()
    run_dir = out / "chaos"
    topologies, settings = [TOPOLOGY], SETTINGS
    if resize:
        topologies, settings = RESIZED, [*SETTINGS, *RESIZED_SETTINGS]

    while len(story.kills) < num_kills:
        servers, trainers = dice.choice(topologies)
        num_ranks = 1 + servers + trainers
        life = command(dataset, run_dir, *settings, f"roles.servers={servers}", options=RESUME)
        with start_ranks(num_ranks, life) as run:
            start = time.monotonic()
            what = wait_for_a_moment(run, run_dir, dice)
            rank = dice.randrange(num_ranks)
            run.kill_rank(rank, signal.SIGKILL)
            story.kills.append(f"{trainers} trainers, {servers} servers: rank {rank} while {what}")
            story.seconds.append(time.monotonic() - start)
            run.wait(LIFE_SECONDS)
            story.iterations.append(newest_iteration(run_dir))
    servers, trainers = TOPOLOGY
    settings = [*settings, f"roles.servers={servers}", f"training.iterations={story.iterations[-1] + 20}"]
    quiet = [*settings, "checkpoint.every=null"]
    patience = LIFE_SECONDS + story.iterations[-1]
    for last in (command(dataset, run_dir, *settings, options=RESUME), command(dataset, out / "quiet", *quiet)):
        finish(run_ranks(1 + servers + trainers, last, timeout=patience))
    story.digest = summary_of(run_dir)["model_digest"]
    story.expected = summary_of(out / "quiet")["model_digest"]
    return story


def wait_for_a_moment(run: Run, run_dir: Path, dice: random.Random) -> str:
    """Wait for the next moment to kill: now and then while starting, else while training or saving."""
    saving = dice.random() < 0.4
    if dice.random() < 0.1:
        time.sleep(dice.uniform(0.5, 3.0))
        return "starting"
    root, generations = run_dir / "checkpoints", markers(run_dir)
    wait(run, lambda: markers(run_dir) > generations)
    before = newest_iteration(run_dir)
    wait(run, lambda: newest_iteration(run_dir) > before)
    time.sleep(dice.uniform(0.0, 0.3))
    if saving:
        wait(run, lambda: any(root.glob(".partial-*")))
        time.sleep(dice.uniform(0.0, 0.02))
    return "saving" if any(root.glob(".partial-*")) else "training"


def wait(run: Run, happened: Callable[[], bool]) -> None:
    """Poll quickly: checkpoints of so small a job take milliseconds."""
    deadline = time.monotonic() + LIFE_SECONDS
    while not happened():
        assert run.process.poll() is None, run.output()
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.001)


def markers(run_dir: Path) -> str:
    """The newest generation."""
    return max((path.name for path in (run_dir / "checkpoints").glob(".generation-*")), default="")


def newest_iteration(run_dir: Path) -> int:
    """Of the checkpoints committed; 0: there is none."""
    return max(
        (int(path.name.removeprefix("iteration-")) for path in (run_dir / "checkpoints").glob("iteration-*")), default=0
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resize", action="store_true", help="draw the numbers of trainers and servers of every life")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as directory:
        out = Path(directory)
        make_dataset(out / "data")
        story = cause_chaos(out / "data", out, options.kills, options.seed, resize=options.resize)
    print(*story.kills, sep="\n")
    print(story)
    raise SystemExit(story.digest != story.expected)
