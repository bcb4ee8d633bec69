"""The thread of a server or trainer that writes its files of checkpoints and reports them to the oracle.

oracle (oracle/committer.py)                         server, trainer
  1 create the partial checkpoint
  2 SnapshotOrder behind a plan  ----------------->  3 after that plan: keep the state, give it to the thread
                                                     4 thread: write, fsync, compute checksums
  6 all files are there: commit  <-- FilesSaved ---  5 thread: send names and checksums
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Queue

from bagpipe_hpc.checkpoint.manifest import FileEntry
from bagpipe_hpc.checkpoint.row_file import RowOptions
from bagpipe_hpc.config import CheckpointConfig
from bagpipe_hpc.protocol.inbox import Outbox
from bagpipe_hpc.protocol.messages import FilesSaved, SavedFile
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.threaded_job import take
from bagpipe_hpc.waiting import note_step


def row_options(config: CheckpointConfig, *, is_full: bool) -> RowOptions:
    """Return how the rows of a checkpoint are stored."""
    return RowOptions("float32" if is_full else config.increment_encoding, config.compression)


def saved_files(entries: Sequence[FileEntry]) -> tuple[SavedFile, ...]:
    """Return the entries of files in the form of the message FilesSaved."""
    return tuple(SavedFile(entry.name, entry.num_bytes, entry.sha256) for entry in entries)


class FileWriter:
    """Writes the files of a rank in a thread, one checkpoint after the other, and sends a message to the oracle.

    An error in the thread ends the job, as an error in any thread does.

    Args:
        outbox: Sends messages to the oracle.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._jobs: Queue[Callable[[], FilesSaved] | None] = Queue()
        self._thread = start_thread("checkpoint", self._run)

    def write(self, job: Callable[[], FilesSaved]) -> None:
        """Let the thread write the files of one checkpoint.

        Args:
            job: Writes the files. The thread calls it and sends the message that it returns.
        """
        self._jobs.put(job)

    def finish(self) -> None:
        """Wait until all files are written and their messages are sent. The thread ends."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := take(self._jobs)) is not None:
            self._outbox.send(job())
            note_step()
