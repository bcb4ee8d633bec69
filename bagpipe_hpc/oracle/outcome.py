"""The reason why a job stops before its end, if it does. Pure."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.errors import DivergedError, JobStopped, TableFullError
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO


class Outcome:
    """Notes the first reason to stop and the first sign of divergence.

    Args:
        has_checkpoints: Whether the job writes checkpoints, so that it can go on later.
    """

    def __init__(self, *, has_checkpoints: bool) -> None:
        self._has_checkpoints = has_checkpoints
        self.stop_reason = ""
        self.diverged: DivergedError | None = None
        self._stopped_at = ""
        self._full: TableFullError | None = None

    def stop(self, reason: str) -> bool:
        """Note a reason to stop; return whether it is the first one."""
        is_first = not self.stop_reason
        self.stop_reason = self.stop_reason or reason
        return is_first

    def diverge(self, error: DivergedError) -> bool:
        """Note that training has diverged; return whether that is new."""
        is_first = self.diverged is None
        self.diverged = self.diverged or error
        return is_first

    def note_stop(self, num_trained: int, *, while_evaluating: bool) -> None:
        """Note that the plans have ended because the job was stopped.

        Args:
            num_trained: Training iterations of the whole job up to here.
            while_evaluating: Whether the last plan was one of an evaluation.
        """
        where = f"after iteration {num_trained:,}"
        self._stopped_at = f"{where}, while evaluating" if while_evaluating else where

    def note_full(self, error: TableFullError, checkpoint: Path | None) -> None:
        """Note that the plans have ended because a dynamic table is full.

        Args:
            error: Which table is full, and what mends it.
            checkpoint: The checkpoint of all iterations before. None: there are no such iterations, or no checkpoints.
        """
        saved = ""
        if checkpoint is not None:
            saved = f"; all iterations before are saved in {checkpoint}: go on with {RESUME_AUTO}"
        elif not self._has_checkpoints:
            saved = "; the iterations before are lost, because checkpoint.enabled is false"
        self._full = TableFullError(f"{error}{saved}")

    @property
    def early_end(self) -> DivergedError | TableFullError | JobStopped | None:
        """Why the job stopped before its end; None if it did not."""
        if self.diverged is not None or self._full is not None:
            return self.diverged or self._full
        if not self._stopped_at:
            return None
        cure = f"go on with {RESUME_AUTO}" if self._has_checkpoints else "no checkpoint: checkpoint.enabled is false"
        return JobStopped(f"stopped {self._stopped_at}: {self.stop_reason}; {cure}")

    @property
    def word(self) -> str:
        """The outcome in one word, for figures.jsonl: done, stopped, diverged or failed."""
        match self.early_end:
            case None:
                return "done"
            case JobStopped():
                return "stopped"
            case DivergedError():
                return "diverged"
            case _:
                return "failed"
