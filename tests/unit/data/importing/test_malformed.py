"""One malformed line anywhere, in any layout: file, line, column and reason are told, or just that line is skipped."""

from __future__ import annotations

import gzip
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bagpipe_hpc.data.importing import text
from bagpipe_hpc.data.importing.click_logs import AVAZU, CRITEO
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError
from tests.unit.conftest import AssertEqual
from tests.unit.data.importing.conftest import ImportTable, bad_lines_of

TYPED = {
    "label": "y",
    "dense": ["price", {"column": "age", "type": "integer"}],
    "categorical": [{"column": "code", "type": "hexadecimal"}, "item"],
    "lists": ["tags"],
}


@dataclass(frozen=True)
class Layout:
    description: TableDescription
    header: tuple[str, ...]
    line: tuple[bytes, ...]  # a good one
    wrong: dict[str, bytes]  # by column: what it may not be, besides what no column of its type may be

    @property
    def delimiter(self) -> bytes:
        return self.description.delimiter.encode()


COLUMNS = ("y", "price", "age", "code", "item", "tags")
VALUES = (b"1", b"2.5", b"30", b"c0ffee", b"caf\xc3\xa9", b"a|b")
WRONG = {"y": b"yes", "price": b"1,5", "age": b"2.5", "code": b"123456789"}
LAYOUTS = {
    "criteo": Layout(
        CRITEO,
        CRITEO.columns or (),
        (b"1", *[b"5"] * 13, *[b"68fd1e64"] * 26),
        {"label": b"-1", "I13": b"1.5", "C26": b"g"},
    ),
    "avazu": Layout(
        AVAZU,
        ("id", "click", *(category.feature_name for category in AVAZU.categorical)),
        (b"1e5", b"0", b"14102100", *[b"v"] * 21),
        {"click": b"2"},
    ),
    "csv": Layout(TableDescription.model_validate(TYPED), COLUMNS, VALUES, {**WRONG, "price": b"1.5.5"}),
    "tsv": Layout(TableDescription.model_validate({**TYPED, "delimiter": "\t"}), COLUMNS, VALUES, WRONG),
    "no header": Layout(
        TableDescription.model_validate({**TYPED, "columns": COLUMNS, "delimiter": "\t", "quoting": False}),
        COLUMNS,
        VALUES,
        WRONG,
    ),
}


@st.composite
def bad_lines(draw: st.DrawFn, layout: Layout) -> tuple[bytes, str]:
    """A malformed line, and what must be said of it."""
    number = len(layout.header)
    kind = draw(st.sampled_from(["short", "long", "empty", "value", "bytes", "line end"]))
    fields = list(layout.line)
    if kind == "empty":
        return b"", f"has 1 [a-z]+-separated column, but {number} are needed"
    if kind in ("short", "long"):
        fields = fields[:-1] if kind == "short" else [*fields, b"1"]
        return layout.delimiter.join(fields), f"has {len(fields)} [a-z]+-separated columns?, but {number} are needed"
    column = draw(st.sampled_from(sorted(layout.wrong)))
    position = layout.header.index(column)
    if kind == "line end":
        fields[position] += b"\r5"
        return layout.delimiter.join(fields), "has a quoted field that does not end, .* or a line end in it"
    fields[position] = layout.wrong[column] if kind == "value" else b"\xff\xfe1"
    shown = fields[position].decode("utf-8", "replace")
    return layout.delimiter.join(
        fields
    ), rf"column {position + 1} \({column}\) is '{re.escape(shown)}', but must be \w+"


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=12, deadline=None)
@given(draws=st.data())
def test_one_bad_line(import_table: ImportTable, assert_equal: AssertEqual, name: str, draws: st.DataObject) -> None:
    layout = LAYOUTS[name]
    good = layout.delimiter.join(layout.line)
    before, after = draws.draw(st.integers(0, 6)), draws.draw(st.integers(0, 6))
    bad, reason = draws.draw(bad_lines(layout))
    above = [] if layout.description.columns else [layout.delimiter.join(name.encode() for name in layout.header)]
    is_ended = draws.draw(st.booleans()) or not bad  # an empty line at the end of a file is none without its end
    content = b"\n".join([*above, *[good] * before, bad, *[good] * after]) + (b"\n" if is_ended else b"")
    assume(not content.startswith((b"\xff\xfe", b"\xfe\xff")))  # which say that the text is UTF-16
    options = {"min_count": 1, "validation_fraction": 0, "num_ranks": draws.draw(st.integers(1, 2))}
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(text, "BLOCK_BYTES", 512):
        file, output = Path(folder) / "clicks", Path(folder) / "out"
        file.write_bytes(gzip.compress(content, 1) if draws.draw(st.booleans()) else content)
        with pytest.raises(DatasetError, match=rf"/clicks: line {len(above) + before + 1}: {reason}"):
            import_table([file], output, layout.description, **options)
        assert [path.name for path in Path(folder).iterdir()] == ["clicks"]
        if before + after:
            dataset = import_table([file], output, layout.description, max_bad_lines=1, **options)
            assert bad_lines_of(dataset)[0] == 1
            file.write_bytes(b"\n".join([*above, *[good] * (before + after)]))
            without = import_table([file], Path(folder) / "without", layout.description, **options)
            assert dataset.schema == without.schema
            assert_equal(next(dataset.train.batches(100)), next(without.train.batches(100)))


def test_text_may_be_in_any_encoding(import_table: ImportTable, tmp_path: Path) -> None:
    lines = [b"y,item", b"1,caf\xe9", b"0,caf\xc3\xa9", b"1,caf\xe9"]
    (tmp_path / "latin.csv").write_bytes(b"\n".join(lines))
    description = TableDescription.model_validate({"label": "y", "categorical": ["item"]})
    dataset = import_table([tmp_path / "latin.csv"], tmp_path / "out", description, min_count=1, validation_fraction=0)
    np.testing.assert_array_equal(next(dataset.train.batches(9)).ids[:, 0], [1, 2, 1])


@pytest.mark.parametrize("name", ["clicks.csv", "clicks.csv.gz"])
def test_a_line_without_end(
    import_table: ImportTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    content = b"y,item\n" + b"1,a\n" * 60 + b"1," + b"b" * 300
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    description = TableDescription.model_validate({"label": "y", "categorical": ["item"]})
    with pytest.raises(DatasetError, match=r"line 62: has more than 100 bytes; shorten it, or give a file of text"):
        import_table([tmp_path / name], tmp_path / "out", description)
