"""The run directory, where the oracle writes config.yaml, metrics.jsonl, summary.json and, last of all, DONE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.checkpoint.durable import replace_durably
from bagpipe_hpc.errors import BagpipeError, RunDirectoryError

DONE = "DONE"  # the name of the file that exists once the job is complete
RESUME_AUTO = '--resume auto (in Python: resume="auto")'  # for messages to users of the command and of the Python API


def refuse_training(run_path: Path) -> None:
    """Check that an evaluation may write into a directory.

    Raises:
        RunDirectoryError: the directory has the files of a training, which the evaluation would replace.
    """
    metrics = run_path / "metrics.jsonl"
    if any(run_path.glob("checkpoints/iteration-*")) or (metrics.is_file() and metrics.stat().st_size):
        raise RunDirectoryError(
            f"{run_path} is the run directory of a training: this job would replace its settings, metrics and summary; "
            "choose another --run-dir"
        )


def write_at_once(path: Path, content: bytes) -> None:
    """Write a whole file or no file. On a full disk, an empty file DONE would mean that the job is complete.

    Raises:
        BagpipeError: the file cannot be written. The message names the file, the cause and what mends it.
    """
    with writing_to(path):
        replace_durably(path, content)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn errors of the file system inside the block into a BagpipeError.

    Args:
        path: The run directory or the file in it that the block writes.
    Raises:
        BagpipeError: the path cannot be written. The message names the path, the cause and what mends it.
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
