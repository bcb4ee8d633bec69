"""Text files that are not quite what they should be: read by one rule on any number of ranks, or refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.importing import text
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import ConfigError, DatasetError

BOM = b"\xef\xbb\xbf"
NAMED = TableDescription.model_validate({"label": "y", "categorical": ["c"]})
UNNAMED = TableDescription.model_validate({"label": "y", "categorical": ["c"], "columns": ["y", "c"]})
EVERYTHING = {"min_count": 1, "validation_fraction": 0}
ImportTable = Callable[..., Dataset]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


class TestByteOrderMarks:
    @pytest.mark.parametrize("description", [NAMED, UNNAMED])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_at_the_start_of_a_file_it_is_no_part_of_the_text(
        self, import_table: ImportTable, tmp_path: Path, description: TableDescription, pack: Callable[[bytes], bytes]
    ) -> None:
        header = b"" if description.columns else b"y,c\n"
        files = [tmp_path / "a.csv", tmp_path / "b.csv"]
        files[0].write_bytes(pack(BOM + header + b"1,a\n0,b\n"))
        files[1].write_bytes(pack(BOM + header + b"1,b\n"))
        dataset = import_table(files, tmp_path / "out", description, **EVERYTHING)
        assert next(dataset.train.batches(9)).labels.tolist() == [1, 0, 1]

    def test_anywhere_else_it_is_content_wherever_blocks_begin(
        self, import_table: ImportTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Arrow drops one at the start of every block that it is given."""
        description = TableDescription.model_validate({"label": "y", "categorical": ["c"], "columns": ["c", "y"]})
        (tmp_path / "a.csv").write_bytes(BOM + b"".join(BOM + b"v,1\nv,0\n" for _ in range(40)))
        outputs = {}
        for num_ranks, block in ((1, 4096), (1, 11), (3, 16), (4, 23)):
            monkeypatch.setattr(text, "BLOCK_BYTES", block)
            output = tmp_path / f"{num_ranks}-{block}"
            dataset = import_table([tmp_path / "a.csv"], output, description, num_ranks=num_ranks, **EVERYTHING)
            assert dataset.schema.num_embeddings == (3,)
            outputs[output.name] = files_of(output)
        assert all(files == outputs["1-4096"] for files in outputs.values())


class TestMissingTexts:
    def test_a_label_is_never_missing(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("y,c,d\n1,0,0\n0,0,5\n")
        given = {"label": "y", "categorical": ["c"], "dense": ["d"], "missing": ["0"]}
        dataset = import_table(
            [tmp_path / "a.csv"], tmp_path / "out", TableDescription.model_validate(given), **EVERYTHING
        )
        batch = next(dataset.train.batches(9))
        assert (batch.labels.tolist(), batch.ids.tolist()) == ([1, 0], [[0], [0]])

    def test_a_rating_is_never_missing(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text('y,c\n5,"NA"\n"3.0",NA\n')
        given = {"label": {"column": "y", "threshold": 4}, "categorical": ["c"], "missing": ["5", "3.0", "NA"]}
        dataset = import_table(
            [tmp_path / "a.csv"], tmp_path / "out", TableDescription.model_validate(given), **EVERYTHING
        )
        batch = next(dataset.train.batches(9))
        assert (batch.labels.tolist(), batch.ids.tolist()) == ([1, 0], [[0], [0]])

    def test_in_a_list_they_are_left_out(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("y,c,l\n1,a,x|NULL|y\n0,b,NULL\n1,a,NULL|x\n")
        given = {"label": "y", "categorical": ["c"], "lists": ["l"], "missing": ["NULL"]}
        dataset = import_table(
            [tmp_path / "a.csv"], tmp_path / "out", TableDescription.model_validate(given), **EVERYTHING
        )
        bags = next(dataset.train.batches(9)).bags["l"]
        assert (bags.offsets.tolist(), dataset.schema.num_embeddings) == ([0, 2, 2, 3], (3, 3))
        assert bags.ids[0] == bags.ids[2]


def tar_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.csv")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", content)
    return packed.getvalue()


LINES = b"y,c\n1,a\n0,b\n" * 50


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zip_of(LINES), "is a zip archive .*; unpack it first"),
        (bz2.compress(LINES), "is compressed by bzip2; unpack it first: bunzip2"),
        (lzma.compress(LINES), "is compressed by xz; unpack it first: unxz"),
        (b"\x28\xb5\x2f\xfd" + LINES, "is compressed by zstd"),
        (gzip.compress(gzip.compress(LINES)), "is compressed by gzip twice"),
        (tar_of(LINES), "is a tar archive; unpack it first: tar -xf"),
        (gzip.compress(tar_of(LINES)), "is a tar archive"),
        (LINES.decode().encode("utf-16"), "is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8"),
        (LINES.decode().encode("utf-16-le"), r"has zero bytes, so it is not text \(perhaps UTF-16\); convert it"),
        (b"y,c\n1,\0\n", "has zero bytes, so it is not text; convert"),
        (LINES.replace(b"\n", b"\r"), r"has only carriage returns as line ends; convert them first: tr '\\r' '\\n'"),
        (b"<!DOCTYPE html><html>not found</html>", "is a web page, perhaps that of a failed download; fetch"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file; write it as Parquet or text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file itself; fetch it"),
        (b"PARE" + bytes(20), "is an encrypted Parquet file; write it without encryption"),
        (b"", "is empty"),
        (BOM, "is empty"),
        (gzip.compress(b""), "is empty"),
        (b"\n1,a\n", "is empty, or begins with an empty line, so it has no header"),
        (
            b"y;c\n1;a\n",
            r"column 'y' does not exist; columns: y;c \(all columns .* delimiter semicolon.*`delimiter: \";\"`",
        ),
        (
            b"y\tc\n1\ta\n",
            r"column 'y' does not exist; .* \(all columns exist with the delimiter tab: set `delimiter: \"\\t\"`",
        ),
        (b"id,click\n1,a\n", "column 'y' does not exist; columns: id, click; correct the schema"),
        (
            b"1,a\n0,b\n",
            r"column 'y' does not exist; columns: 1, a \(line 1 looks like values.*`columns: \[...\]`\);",
        ),
    ],
    # The bytes of an archive hold the time, and every process of a parallel run must give a test the same name.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_files_that_are_no_table_are_called_by_name(
    import_table: ImportTable, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"/a\.csv: {reason}"):
        import_table([tmp_path / "a.csv"], tmp_path / "out", NAMED, **EVERYTHING)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_without_a_header_a_delimiter_is_guessed_too(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1;a\n0;b\n")
    reason = r"line 1: has 1 comma-separated column, but 2 are needed \(that is the number with the delimiter semicolon"
    with pytest.raises(DatasetError, match=reason):
        import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, **EVERYTHING)


@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
def test_what_can_be_read_only_once_is_refused(import_table: ImportTable, tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.csv").symlink_to(target)
    with pytest.raises(DatasetError, match="is a pipe or device, but the import reads it more than once; give a"):
        import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, **EVERYTHING)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_longest_line_is_the_same_wherever_blocks_begin(
    import_table: ImportTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 64)
    for shift in range(0, 70, 7):
        before = b"1," + b"a" * shift + b"\n"
        for length in (64, 65):
            line = b"0," + b"b" * (length - 2) + b"\n"
            (tmp_path / "a.csv").write_bytes(before + b"1,c\n" * 9 + line + b"1,c\n" * 9)
            output = tmp_path / f"{shift}-{length}-{num_ranks}"
            if length == 64 and shift <= 62:
                import_table([tmp_path / "a.csv"], output, UNNAMED, num_ranks=num_ranks, **EVERYTHING)
            elif shift <= 62:
                with pytest.raises(DatasetError, match="line 11: has more than 64 bytes"):
                    import_table([tmp_path / "a.csv"], output, UNNAMED, num_ranks=num_ranks, **EVERYTHING)


class TestLimits:
    @pytest.mark.parametrize("hash_rows", [0, 1, 2**62 + 1, 2**63, 2**64, 10**30])
    def test_rows_of_hashing(self, import_table: ImportTable, tmp_path: Path, hash_rows: int) -> None:
        (tmp_path / "a.csv").write_bytes(b"1,a\n")
        with pytest.raises(ConfigError, match=r"for hashing is .*, but must be from 2 to 2.62"):
            import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, hash_rows=hash_rows)

    def test_the_most_rows(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"1,a\n")
        dataset = import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, hash_rows=2**62)
        assert dataset.schema.num_embeddings == (2**62,)
        two = {"label": "y", "categorical": ["c", {"column": "c", "name": "d"}], "columns": ["y", "c"]}
        with pytest.raises(ConfigError, match=r"the tables have 9223372036854775808 rows together, .* hash to fewer"):
            import_table([tmp_path / "a.csv"], tmp_path / "two", TableDescription.model_validate(two), hash_rows=2**62)

    @pytest.mark.parametrize("min_count", [0, 2**32, 10**30])
    def test_the_minimum_count(self, import_table: ImportTable, tmp_path: Path, min_count: int) -> None:
        with pytest.raises(ConfigError, match=r"the minimum count is .*, but must be from 1 to 4,294,967,295"):
            import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, min_count=min_count)


@pytest.mark.parametrize("header", ["Y,C", " y , c "])
def test_names_that_are_nearly_right(import_table: ImportTable, tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,a\n")
    with pytest.raises(DatasetError, match=r"column '[yc]' does not exist \(did you mean '.+'\?\); columns:"):
        import_table([tmp_path / "a.csv"], tmp_path / "out", NAMED, **EVERYTHING)


def test_a_header_where_there_should_be_none(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"y",c\n1,a\n')
    with pytest.raises(DatasetError, match=r"line 1: is a header, but the schema names `columns`.*; remove `columns`"):
        import_table([tmp_path / "a.csv"], tmp_path / "out", UNNAMED, **EVERYTHING)


@pytest.mark.parametrize("description", [NAMED, UNNAMED])
def test_a_header_in_the_middle(import_table: ImportTable, tmp_path: Path, description: TableDescription) -> None:
    header = "" if description.columns else "y,c\n"
    (tmp_path / "a.csv").write_text(f"{header}1,a\n0,b\ny,c\n1,a\n")
    with pytest.raises(DatasetError, match=r"line [34]: is a header in the middle of the file; .* with cat; correct"):
        import_table([tmp_path / "a.csv"], tmp_path / "out", description, **EVERYTHING)


def test_files_of_two_layouts(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,c\n1,a\n")
    (tmp_path / "b.csv").write_text("y,d\n1,a\n")
    with pytest.raises(DatasetError, match=r"b\.csv: has other columns than .*a\.csv \(column 2 is 'd', not 'c'\)"):
        import_table([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out", NAMED, **EVERYTHING)
