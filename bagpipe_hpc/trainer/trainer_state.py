"""The part of a checkpoint that a trainer saves and restores.

Every trainer saves its cached rows. Trainer 0 also saves the dense parameters and the state of their optimizer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.dense_file import DenseState
from bagpipe_hpc.checkpoint.row_file import CachedRows
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.protocol.messages import FilesSaved
from bagpipe_hpc.protocol.plan import SnapshotOrder
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.file_writer import row_options, saved_files
from bagpipe_hpc.runtime.finite import FiniteRows, require_finite_parameters
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.trainer.dense_state import keep_dense, keep_optimizer, restore_dense
from bagpipe_hpc.trainer.random_state import keep_random_state, restore_random_state
from bagpipe_hpc.trainer.step import TrainingStep


class TrainerState:
    """Saves and restores the state of a trainer. The thread that plays the plans calls it between two iterations.

    Args:
        spec: The job.
        start: Where the job begins.
        step: Has the cache, the model and the dense optimizer.
        trainer: The rank of this trainer among the trainers.
    """

    def __init__(self, spec: JobSpec, start: StartingPoint, step: TrainingStep, trainer: int) -> None:
        self._spec, self._start, self._step, self._trainer = spec, start, step, trainer
        self._row_width = row_width(spec.config)
        self._finite = FiniteRows(spec.config, spec.schema)

    def restore(self) -> None:
        """Restore the state from the checkpoint that the job goes on from, if there is one.

        Raises:
            CheckpointError: the checkpoint is damaged or contradicts the job.
        Communication: none.
        """
        resumed = self._start.checkpoint
        if resumed is None:
            return
        dense = resumed.dense()
        restore_dense(self._step.model, self._step.dense_optimizer, dense.parameters, dense.state)
        if self._start.keeps_caches:
            self._restore_cache(resumed)
            restore_random_state(self._step.cache.device, resumed.trainer_state(self._trainer))

    def keep(self, snapshot: SnapshotOrder) -> Callable[[float], FilesSaved]:
        """Copy the state as it is now.

        Args:
            snapshot: The order from the oracle. It has the keys of the cached rows.
        Returns:
            A function that writes the files, in any thread. Its argument is how many seconds training stood still for
            the copy.
        Communication: none.
        """
        assert self._spec.checkpoints is not None
        rows = self._step.cache.keep(snapshot.slots)
        cached = CachedRows(snapshot.keys, snapshot.slots, snapshot.dirty.astype(np.bool_), rows)
        state = keep_random_state(self._step.cache.device)
        dense = None
        if self._trainer == 0:
            dense = DenseState(keep_dense(self._step.model), keep_optimizer(self._step.dense_optimizer))
        partial = self._spec.checkpoints.partial(snapshot.num_trained, self._row_width)
        options = row_options(self._spec.config.checkpoint, is_full=snapshot.is_full)

        def write(stall_seconds: float) -> FilesSaved:
            try:
                self._finite.require(snapshot.num_trained, cached.keys, cached.rows)
                if dense is not None:
                    require_finite_parameters(snapshot.num_trained, dense.parameters)
            except DivergedError as error:
                return FilesSaved(snapshot.num_trained, (), 0, stall_seconds, str(error))
            files = [partial.write_trainer(self._trainer, [cached], state, options)]
            if dense is not None:
                files.append(partial.write_dense(dense))
            return FilesSaved(snapshot.num_trained, saved_files(files), len(cached.keys), stall_seconds)

        return write

    def _restore_cache(self, resumed: Checkpoint) -> None:
        """Restore the cached rows. Rows whose slots this cache does not have stay out: the servers have every row."""
        cache = self._step.cache
        for piece in resumed.cached_rows(self._trainer):
            fits = piece.slots < cache.num_slots
            cache.restore(piece.slots[fits], piece.rows[fits])
