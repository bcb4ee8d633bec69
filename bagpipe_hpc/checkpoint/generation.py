"""Which start of a job may write into a checkpoint directory.

Every start of a job claims the next generation by creating its marker file, which only one process can create. A start
with a lower generation is *fenced*: it refuses to write. This protects against processes of a node that hung while the
job was started again elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.checkpoint.durable import discard_directory, sync_directory, writing
from bagpipe_hpc.checkpoint.file_names import DISCARDED, generation_name, generation_of_marker, generation_of_partial
from bagpipe_hpc.errors import CheckpointError, FencedError


def newest_generation(root: Path) -> int:
    """Return the newest claimed generation; 0 if there is none."""
    return max(_generations(path.name for path in root.iterdir()), default=0)


def claim_generation(root: Path) -> int:
    """Claim the next generation and return it. All earlier generations are then fenced.

    Makes the checkpoint directory if it is missing, and removes what earlier generations left unfinished. One rank
    calls this before it looks for checkpoints: if an earlier generation still commits one, it does so before this call
    returns.

    Raises:
        CheckpointError: The directory cannot be written.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        while not _create(root, generation := newest_generation(root) + 1):
            pass
        sync_directory(root)
        _sweep(root, generation)
    return generation


def require_newest(root: Path, generation: int) -> None:
    """Raise unless `generation` is the newest one.

    Raises:
        FencedError: A newer generation exists; names both.
        CheckpointError: The directory cannot be read, or was deleted.
    """
    try:
        with writing(root):
            newest = newest_generation(root)
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CheckpointError(f"{root} was deleted while this job ran; start the job again") from None
        raise
    if generation < newest:
        raise FencedError(
            f"{root} belongs to generation {newest} of this job and this is generation {generation}: the job was "
            "started again while this one still ran, so this one stops and writes no checkpoint. Let the newer one run"
        )


@contextmanager
def writing_as(root: Path, generation: int, path: Path) -> Iterator[None]:
    """Let this generation write a file of a checkpoint inside the block.

    A later start of the job deletes unfinished files, which may cause an error inside the block. The error then says
    so.

    Args:
        path: The file, for messages.
    Raises:
        FencedError: As `require_newest`.
        CheckpointError: The file cannot be written.
    """
    require_newest(root, generation)
    try:
        with writing(path):
            yield
    except CheckpointError:
        if root.is_dir():
            require_newest(root, generation)
        raise


def _create(root: Path, generation: int) -> bool:
    """Create a marker; return False if another start was first."""
    try:
        (root / generation_name(generation)).touch(exist_ok=False)
    except FileExistsError:
        return False
    # Without this check, a marker that a still later start has removed could be created a second time.
    return newest_generation(root) == generation


def _generations(names: Iterable[str]) -> list[int]:
    return [generation for name in names if (generation := generation_of_marker(name)) is not None]


def _sweep(root: Path, generation: int) -> None:
    """Remove markers and unfinished checkpoints of earlier generations, and directories that are half deleted.

    If an earlier generation is about to rename its partial directory, it either did so before, or finds it gone.
    """
    for path in list(root.iterdir()):
        marker, partial = generation_of_marker(path.name), generation_of_partial(path.name)
        if marker is not None and marker < generation:
            path.unlink(missing_ok=True)
        elif partial is not None and partial < generation:
            discard_directory(path)
        elif path.name.startswith(DISCARDED):
            shutil.rmtree(path, ignore_errors=True)
