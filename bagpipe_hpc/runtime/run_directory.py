"""The run directory, where the oracle writes config.yaml, metrics.jsonl, summary.json and, last of all, DONE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.checkpoint.durable import replace_durably
from bagpipe_hpc.errors import BagpipeError, RunDirectoryError

DONE = "DONE"  # names the file that says that training is complete
RESUME_AUTO = '--resume auto (in Python: resume="auto")'  # in messages, which commands and programs print


def refuse_training(run_path: Path) -> None:
    """See that an evaluation may write into a directory.

    Raises:
        RunDirectoryError: the files of a training are there, and would be replaced.
    """
    metrics = run_path / "metrics.jsonl"
    if any(run_path.glob("checkpoints/iteration-*")) or (metrics.is_file() and metrics.stat().st_size):
        raise RunDirectoryError(
            f"{run_path} is the run directory of a training, whose settings, metrics and summary this would replace; "
            "choose another --run-dir"
        )


def write_at_once(path: Path, content: bytes) -> None:
    """Write a whole file, or none: on a full disk an empty DONE would say that a job is complete.

    Raises:
        BagpipeError: names the file and the cause.
    """
    with writing_to(path):
        replace_durably(path, content)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Errors of the file system inside the block become the user's to mend.

    Args:
        path: What is written, the run directory or a file in it.
    Raises:
        BagpipeError: names path, cause and cure.
    """
    try:
        yield
    except OSError as error:
        cure = "free space, mend permissions or choose another --run-dir"
        if isinstance(error, FileExistsError | NotADirectoryError) and (file := _file_in_the_way(path)) is not None:
            cure = f"{file} is a file, not a directory; choose another --run-dir, or remove the file"
        raise BagpipeError(f"{path} cannot be written: {error.strerror}; {cure}") from None


def _file_in_the_way(path: Path) -> Path | None:
    return next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)
