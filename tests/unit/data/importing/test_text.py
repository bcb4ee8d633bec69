from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bagpipe_hpc.data.importing import text
from bagpipe_hpc.data.importing.ranks import Alone, Ranks
from bagpipe_hpc.data.importing.text import LineIndex
from bagpipe_hpc.errors import DatasetError
from tests.unit.data.importing.conftest import OnRanks

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30)


def index_of(files: Sequence[Path], ranks: Ranks | None = None) -> list[LineIndex]:
    *_, (_, _, indices) = text.index_lines(files, ranks or Alone())
    assert indices is not None
    return indices


@given(
    lines=LINES,
    is_ended=st.booleans(),
    is_gzip=st.booleans(),
    block_bytes=st.integers(13, 60),
    num_ranks=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_any_division_gives_the_same_lines(
    on_ranks: OnRanks,
    lines: list[bytes],
    is_ended: bool,
    is_gzip: bool,
    block_bytes: int,
    num_ranks: int,
    cuts: list[int],
) -> None:
    content = b"\n".join(lines) + (b"\n" if is_ended and lines else b"")
    assume(is_gzip or not content.startswith(b"\x1f\x8b"))  # text does not begin as a gzip file
    expected = [line + b"\n" for line in content.split(b"\n")]
    if expected[-1] == b"\n":
        expected.pop()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(text, "BLOCK_BYTES", block_bytes):
        file = Path(folder) / "lines"
        file.write_bytes(gzip.compress(content, 1) if is_gzip else content)
        for [index] in on_ranks(num_ranks, lambda ranks: index_of([file], ranks)):
            assert index.num_lines == len(expected)
        borders = sorted({0, len(expected), *(min(cut, len(expected)) for cut in cuts)})
        found: list[bytes] = []
        for start, stop in pairwise(borders):
            for number, block in text.read_lines(file, index, start, stop):
                assert number == len(found)
                assert len(block) <= 2 * block_bytes
                found += block.splitlines(keepends=True) if b"\r" not in block else split(block)
    assert found == expected


def split(block: bytes) -> list[bytes]:
    return [line + b"\n" for line in block.split(b"\n")[:-1]]


def test_ranks_take_turns_with_gzip_files(on_ranks: OnRanks, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.gz" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(gzip.compress(b"line\n" * (number + 1)))
    last = on_ranks(2, lambda ranks: list(text.index_lines(files, ranks))[-1])
    sizes = [file.stat().st_size for file in files]
    assert [(read, total) for read, total, _ in last] == [(sizes[0] + sizes[2],) * 2, (sizes[1],) * 2]
    assert [[index.num_lines for index in indices] for _, _, indices in last] == [[1, 2, 3]] * 2


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"%06d\n" % number for number in range(1000)))
    with mock.patch.object(text, "BLOCK_BYTES", 70):
        [index] = index_of([file])
        assert len(index.offsets) == 100
        assert index.mark_before(505) == (50 * 70, 500)
        assert index.mark_before(500) == (49 * 70, 490)  # 50 * 70 may be within line 500
        assert b"".join(block for _, block in text.read_lines(file, index, 505, 507)) == b"000505\n000506\n"


def test_a_file_that_lost_lines_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"1\n2\n3\n")
    [index] = index_of([file])
    file.write_bytes(b"1\n")
    with pytest.raises(DatasetError, match="ended after 1 lines, but had 3; import a file that does not change"):
        list(text.read_lines(file, index, 0, 3))
