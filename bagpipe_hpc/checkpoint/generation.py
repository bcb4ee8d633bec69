"""Which incarnation of a job may write into a checkpoint directory.

Every start of a job claims the next generation by creating its marker file, which only one can. Whoever holds a lower
generation, such as the processes of a node that hung while the job was started anew, is *fenced*: it refuses to write.
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
    """The newest generation claimed; 0 where there is none."""
    return max(_generations(path.name for path in root.iterdir()), default=0)


def claim_generation(root: Path) -> int:
    """Become the newest incarnation: from now on all earlier ones are fenced, and what they left unfinished is removed.

    A checkpoint directory is made if there is none. Called by one rank, before any checkpoint is looked for: what an
    earlier incarnation still commits, it commits before this call returns.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        while not _create(root, generation := newest_generation(root) + 1):
            pass
        sync_directory(root)
        _sweep(root, generation)
    return generation


def require_newest(root: Path, generation: int) -> None:
    """Refuse to go on as an incarnation that is not the newest.

    Raises:
        FencedError: names both generations.
        CheckpointError: the directory cannot be read, or was deleted.
    """
    try:
        with writing(root):
            newest = newest_generation(root)
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CheckpointError(f"{root} was deleted while this job ran; start it again to train anew") from None
        raise
    if generation < newest:
        raise FencedError(
            f"{root} belongs to generation {newest} of this job and this is generation {generation}: the job was "
            "started anew while this one still ran, so this one stops and writes no checkpoint. Let the newer one go on"
        )


@contextmanager
def writing_as(root: Path, generation: int, path: Path) -> Iterator[None]:
    """Write a file of a checkpoint, as an incarnation that may.

    A later start deletes what is being written, so an error inside the block may be its doing: then the error says so.

    Args:
        path: What is written, for messages.
    Raises:
        FencedError: as `require_newest`.
        CheckpointError: the file cannot be written.
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
    """Create a marker; False if another start was first."""
    try:
        (root / generation_name(generation)).touch(exist_ok=False)
    except FileExistsError:
        return False
    # A marker that a still later start has removed could be created a second time.
    return newest_generation(root) == generation


def _generations(names: Iterable[str]) -> list[int]:
    return [generation for name in names if (generation := generation_of_marker(name)) is not None]


def _sweep(root: Path, generation: int) -> None:
    """Remove markers and unfinished checkpoints of earlier generations, and what a killed process left half deleted.

    An earlier incarnation that is about to rename its partial directory either did so before, or finds it gone.
    """
    for path in list(root.iterdir()):
        marker, partial = generation_of_marker(path.name), generation_of_partial(path.name)
        if marker is not None and marker < generation:
            path.unlink(missing_ok=True)
        elif partial is not None and partial < generation:
            discard_directory(path)
        elif path.name.startswith(DISCARDED):
            shutil.rmtree(path, ignore_errors=True)
