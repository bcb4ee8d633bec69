"""Which checkpoints to keep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from bagpipe_hpc.checkpoint.checkpoint import Saved, saved_checkpoints
from bagpipe_hpc.checkpoint.durable import discard_directory, sync_directory, writing
from bagpipe_hpc.checkpoint.file_names import BEST, iteration_of
from bagpipe_hpc.checkpoint.pointer import named_by
from bagpipe_hpc.errors import CheckpointError


def names_to_keep(
    newest_first: Sequence[str],
    parents: Mapping[str, str | None],
    keep_last: int,
    keep_every: int | None,
    others: Collection[str] = (),
) -> set[str]:
    """Return the `keep_last` newest checkpoints, multiples of `keep_every`, and those that these build on. Pure.

    Args:
        newest_first: Names of checkpoints.
        parents: For each checkpoint the name of its parent; None for a full one.
        keep_last: How many of the newest to keep, at least 1.
        keep_every: Keep checkpoints whose iteration is a multiple of this; None: none.
        others: Names to keep, too, if they exist.
    Raises:
        CheckpointError: keep_last or keep_every is below 1.
    """
    if keep_last < 1 or (keep_every is not None and keep_every < 1):
        raise CheckpointError(f"keep_last is {keep_last} and keep_every {keep_every}, but both must be at least 1")
    wanted = [*newest_first[:keep_last], *(name for name in newest_first if name in others)]
    if keep_every:
        wanted += [name for name in newest_first if (iteration_of(name) or 0) % keep_every == 0]
    kept: set[str] = set()
    for name in wanted:
        link: str | None = name
        while link is not None and link not in kept:
            kept.add(link)
            link = parents.get(link)
    return kept


def prune(
    root: Path,
    keep_last: int,
    keep_every: int | None = None,
    is_pinned: Callable[[int], bool] = lambda iteration: False,
) -> list[Path]:
    """Delete the checkpoints that need not be kept, increments before the checkpoints that they build on.

    The checkpoint that `best` names is kept. A directory without a readable manifest is neither counted nor deleted.

    Args:
        root: Directory of checkpoints.
        keep_last: How many of the newest to keep, at least 1.
        keep_every: Keep checkpoints whose iteration is a multiple of this; None: none.
        is_pinned: Whether to keep the checkpoint of an iteration for another reason.
    Returns:
        The deleted directories.
    Raises:
        CheckpointError: keep_last or keep_every is below 1, or the directory cannot be written.
    """
    saved = [found for path in saved_checkpoints(root) if (found := _load(path)) is not None]
    saved.sort(key=lambda found: (found.manifest.generation, found.manifest.iteration), reverse=True)
    parents = {found.path.name: found.manifest.parent.name if found.manifest.parent else None for found in saved}
    best = named_by(root / BEST)
    pinned = {found.path.name for found in saved if found.path == best or is_pinned(found.manifest.iteration)}
    kept = names_to_keep([found.path.name for found in saved], parents, keep_last, keep_every, pinned)
    doomed = sorted((found.path for found in saved if found.path.name not in kept), reverse=True)
    with writing(root):
        for path in doomed:
            discard_directory(path)
        sync_directory(root)
    return doomed


def _load(path: Path) -> Saved | None:
    try:
        return Saved.load(path)
    except CheckpointError:
        return None
