"""The memory of a process, as the kernel shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bagpipe_hpc.memory_use import resident_bytes


def test_this_process_uses_memory() -> None:
    assert 10**6 < resident_bytes() < 10**11


@pytest.mark.parametrize(("content", "pages"), [("9 7 5 3 0 1 0\n", 7), ("9", 0), ("a b", 0)])
def test_the_second_number_counts(tmp_path: Path, content: str, pages: int) -> None:
    (tmp_path / "statm").write_text(content)
    assert resident_bytes(tmp_path / "statm") == pages * os.sysconf("SC_PAGE_SIZE")


def test_without_such_a_file_it_is_unknown(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "none") == 0
