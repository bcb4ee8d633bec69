from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from numpy.typing import NDArray

from bagpipe_hpc.data.dataset import Dataset, open_dataset
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files
from bagpipe_hpc.data.importing.ranks import Ranks


class OnRanks(Protocol):
    """Calls a function on ranks that are threads of this process, and returns the results by rank."""

    def __call__(self, num_ranks: int, function: Callable[[Ranks], Any]) -> list[Any]: ...


class ImportTable(Protocol):
    """Makes a data set of files.

    Args:
        num_ranks: Ranks that import together; threads of this process.
        options: `progress` and `command` of `import_files`, and fields of `ImportSettings`.
    """

    def __call__(
        self, files: Sequence[Path], output: Path, description: TableDescription, *, num_ranks: int = 1, **options: Any
    ) -> Dataset: ...


class ThreadRanks:
    """The twin of MPI: ranks are threads of this process."""

    def __init__(self, rank: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(table)
        self._table, self._barrier = table, barrier

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        return self._exchange(values)

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [row[self.rank] for row in self._exchange(pieces)]

    def await_end(self) -> None:
        self._barrier.wait()  # which the failing one breaks

    def _exchange(self, mine: Any) -> list[Any]:
        self._table[self.rank] = mine
        self._barrier.wait()
        everything = list(self._table)
        self._barrier.wait()
        return everything


def _on_ranks(num_ranks: int, function: Callable[[Ranks], Any]) -> list[Any]:
    barrier, table = threading.Barrier(num_ranks, timeout=60), [None] * num_ranks

    def play(rank: int) -> Any:
        try:
            return function(ThreadRanks(rank, table, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(num_ranks) as pool:
        played = [pool.submit(play, rank) for rank in range(num_ranks)]
    errors = [error for future in played if (error := future.exception())]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):  # that others met because of it
            raise error
    return [future.result() for future in played]


@pytest.fixture(scope="session")
def on_ranks() -> OnRanks:
    """See `OnRanks`."""
    return _on_ranks


@pytest.fixture(scope="session")
def import_table() -> ImportTable:
    """See `ImportTable`."""

    def run(
        files: Sequence[Path],
        output: Path,
        description: TableDescription,
        *,
        num_ranks: int = 1,
        **options: Any,
    ) -> Dataset:
        keywords = {name: options.pop(name) for name in ("progress", "command") if name in options}
        settings = ImportSettings(**options)
        if num_ranks == 1:
            import_files(files, output, description, settings, **keywords)
        else:
            _on_ranks(num_ranks, lambda r: import_files(files, output, description, settings, ranks=r, **keywords))
        return open_dataset(output)

    return run


def bad_lines_of(dataset: Dataset) -> tuple[int, list[str]]:
    """How many lines an import skipped, and what the data set says about the first of them."""
    told = cast(dict[str, Any], dataset.origin["bad_lines"])
    return told["count"], told["first"]
