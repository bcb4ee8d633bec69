"""What a line of a text file must look like, and what is wrong with one that does not."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

import pyarrow as pa
from pyarrow import csv

from bagpipe_hpc.data.importing.click_logs import log_of
from bagpipe_hpc.data.importing.description import Kind, TableDescription
from bagpipe_hpc.data.importing.formats import BOM
from bagpipe_hpc.errors import DatasetError

pa.enable_signal_handlers(False)  # Arrow takes a SIGTERM that comes while it parses, and may forget it

# The pattern of a field, and that in words. Numbers fit float32, integers int64. Single characters are repeated
# possessively, so that nothing is tried twice; groups are not: Python before 3.11.5 then takes lines for wrong that are
# right.
_VALUES: Mapping[Kind, tuple[str, str]] = {
    "binary": ("[01]", "0 or 1 (other numbers are labels with a `threshold`)"),
    "rating": (
        number := r"-?+(?:[0-9](?:\.[0-9]*+)?[eE]\+?+(?:[0-2]?[0-9]|3[0-7])(?![0-9])"
        r"|(?:[0-9]{1,18}+(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE](?:-[0-9]{1,3}+|\+?+[01]?[0-9](?![0-9])))?)",
        "a number below 1e37",
    ),
    "number": (f"(?:{number})?", "empty or a number below 1e37"),
    "integer": ("(?:-?+[0-9]{1,18}+)?", "empty or an integer of at most 18 digits"),
    "hexadecimal": ("[0-9a-fA-F]{0,8}+", "empty or at most 8 hexadecimal digits"),
}
_ARROW_TYPES: Mapping[Kind, pa.DataType] = {"hexadecimal": pa.binary(), "text": pa.binary()}
_OFTEN_MISSING = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", r"\n", "missing"}  # in lower case
_OFTEN = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}


class Grammar:
    """The lines of files with one header.

    Args:
        description: Delimiter, quoting, missing values.
        header: Names of all columns.
        kinds: What the used columns hold, by position.
    """

    def __init__(self, description: TableDescription, header: Sequence[str], kinds: Mapping[int, Kind]) -> None:
        self._description = description
        self._header = header
        self._kinds = kinds
        self._delimiter = description.delimiter.encode()
        delimiter = re.escape(description.delimiter)
        bare = rf"[^{delimiter}\r\n]*+"
        self._any = rf'(?:"(?:[^"\r\n]++|"")*"|(?!"){bare})' if description.quoting else bare
        self._end = rf'[{delimiter}\r\n"]|\Z' if description.quoting else rf"[{delimiter}\r\n]|\Z"
        self._fields = {position: self._field(kind) for position, kind in kinds.items()}
        fields = (self._fields.get(position, self._any) for position in range(len(header)))
        self._lines = re.compile(rf"(?:{delimiter.join(fields)}\r?+\n)*".encode())
        self._any_field = re.compile(self._any.encode())

    def good_lines(self, text: bytes, lines_before: int = 0) -> tuple[bytes, list[tuple[int, str]]]:
        """Text of the lines that are in order; of the others the number, from 0 on, and what is wrong.

        Args:
            lines_before: Lines of the file before this text.
        """
        pieces, faults = [], []
        start, line = 0, 0
        while start < len(text):
            matched = self._lines.match(text, start)
            end = matched.end() if matched else start
            pieces.append(text if end - start == len(text) else text[start:end])
            if end < len(text):
                line += text.count(b"\n", start, end)
                start = text.index(b"\n", end) + 1
                faults.append((line, self._fault(text[end : start - 1], is_first=lines_before + line == 0)))
                line += 1
            else:
                start = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), faults

    def parse(self, text: bytes, positions: Collection[int]) -> pa.Table:
        """Columns, named by their positions, of lines that are in order."""
        if not text:
            return pa.table({str(position): pa.array([], self._type(position)) for position in positions})
        # A label is never missing: a text that says so elsewhere may be a label here.
        labels = [position for position in positions if self._kinds[position] in ("binary", "rating")]
        others = [position for position in positions if position not in labels]
        if not (labels and others and self._description.missing):
            return self._parse(text, positions, self._description.missing if others else ())
        parsed = {position: self._parse(text, labels, ()).column(str(position)) for position in labels}
        rest = self._parse(text, others, self._description.missing)
        parsed |= {position: rest.column(str(position)) for position in others}
        return pa.table({str(position): parsed[position] for position in positions})

    def _parse(self, text: bytes, positions: Collection[int], missing: Collection[str]) -> pa.Table:
        names = [str(position) for position in range(len(self._header))]
        if text.startswith(BOM):
            text = BOM + text  # Arrow drops one at the start of what it is given, which may be the middle of a file
        return csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(column_names=names, block_size=len(text) + 1),
            parse_options=csv.ParseOptions(
                delimiter=self._description.delimiter,
                quote_char='"' if self._description.quoting else False,
                ignore_empty_lines=False,
            ),
            convert_options=csv.ConvertOptions(
                include_columns=[names[position] for position in positions],
                column_types={names[position]: self._type(position) for position in positions},
                null_values=["", *missing],
                strings_can_be_null=bool(missing),
                check_utf8=False,
            ),
        )

    def split(self, line: bytes) -> list[bytes] | None:
        """Fields of a line, quotes still on; None where quotes are out of place."""
        if not self._description.quoting:
            return line.split(self._delimiter)
        fields, end = [], -1
        while end < len(line):
            field = self._any_field.match(line, end + 1)
            if not field or line[field.end() : field.end() + 1] not in (self._delimiter, b""):
                return None
            fields.append(field[0])
            end = field.end()
        return fields

    def _field(self, kind: Kind) -> str:
        if kind == "text":
            return self._any
        value = _VALUES[kind][0]
        if self._description.missing and kind not in ("binary", "rating"):
            missing = "|".join(re.escape(text) for text in self._description.missing)
            value = f"(?:(?:{missing})(?={self._end})|{value})"
        return f'(?:"{value}"|{value})' if self._description.quoting else value

    def _fault(self, line: bytes, *, is_first: bool) -> str:
        """Why a line does not match; is_first: it is the first one of its file."""
        line = line.removesuffix(b"\r")
        fields = self.split(line)
        if b"\r" in line or fields is None:
            return 'has a quoted field that does not end, text beside it, or a line end in it (" in it is written "")'
        if len(fields) != len(self._header):
            return self._number_fault(line, len(fields), is_first)
        if list(_unquoted(fields)) == list(self._header):
            if is_first and self._description.columns:
                return "is a header, but the schema names `columns`, so that files have none; leave `columns` out"
            return "is a header in the middle of the file, as where files were put together with cat"
        position = next(i for i in sorted(self._fields) if not re.fullmatch(self._fields[i].encode(), fields[i]))
        value = fields[position][:40].decode("utf-8", "replace")
        fault = describe_fault(position, self._header, value, _VALUES[self._kinds[position]][1])
        return fault + self._missing_hint(value.strip('"'), self._kinds[position])

    def _number_fault(self, line: bytes, num_fields: int, is_first: bool) -> str:
        """Of a line with so many fields, which are not as many as there must be."""
        separated = _OFTEN.get(self._description.delimiter, repr(self._description.delimiter))
        plural = "" if num_fields == 1 else "s"
        one_less = self._description.columns and num_fields == len(self._header) - 1
        hint = " (a file without labels? --no-label takes it for predictions)" if one_less else ""
        if not line:
            hint = " (the line is empty)"
        elif log := log_of(self._description):
            hint = hint or self._log_hint(line, log, is_first)
        else:
            hint = self._delimiter_hint(line) or hint
        needed = len(self._header)
        return f"has {num_fields} {separated}-separated column{plural}, but {needed} {_are(needed)} needed{hint}"

    def _log_hint(self, line: bytes, log: str, is_first: bool) -> str:
        """Whether the file seems to be another one than the click log."""
        if self._description.delimiter.encode() in line and not is_first:
            return ""
        others = _OFTEN.keys() - {self._description.delimiter}
        most = max(sorted(others), key=lambda delimiter: line.count(delimiter.encode()))
        looks = f" the line looks {_OFTEN[most]}-separated;" if most.encode() in line else ""
        return f" (is this a {log} log?{looks} `bagpipe import table` takes files of any layout)"

    def _missing_hint(self, value: str, kind: Kind) -> str:
        """How to let a text in that often says that a value is missing; no click log has one."""
        if value.lower() not in _OFTEN_MISSING or kind in ("binary", "rating") or log_of(self._description):
            return ""
        return missing_hint([*self._description.missing, value])

    def _delimiter_hint(self, line: bytes) -> str:
        for delimiter, name in _OFTEN.items():
            if line.count(delimiter.encode()) == len(self._header) - 1 > 0:
                return f" (there would be so many with the delimiter {name}: `delimiter: {json.dumps(delimiter)}`?)"
        return ""

    def _type(self, position: int) -> pa.DataType:
        return _ARROW_TYPES.get(self._kinds[position], pa.float64())


def describe_fault(position: int, header: Sequence[str], value: str, allowed: str) -> str:
    """A value that its column may not have."""
    return f"column {position + 1} ({header[position]}) is {value!r}, but must be {allowed}"


def missing_hint(texts: Sequence[str]) -> str:
    """The setting of a schema by which these texts say that a value is missing."""
    plain = (text if re.fullmatch("[A-Z]+|NaN", text) and text != "NULL" else json.dumps(text) for text in texts)
    return f" (if that says that the value is missing, write `missing: [{', '.join(plain)}]` in the schema)"


def header_hint(header: Sequence[str]) -> str:
    """What to say of a header that lacks a column, but looks like a line of values; empty if it does not."""
    if not any(re.fullmatch(r"-?[0-9.]+(?:[eE][-+]?[0-9]+)?|", name) for name in header):
        return ""
    return " (line 1 looks like values: if files have no header, name all columns in the schema: `columns: [...]`)"


def delimiter_hint(line: bytes, description: TableDescription) -> str:
    """What to say where the header lacks a column, but would have all with another delimiter."""
    for delimiter, name in _OFTEN.items():
        if delimiter != description.delimiter and delimiter.encode() in line:
            header = header_of(line, description.model_copy(update={"delimiter": delimiter}))
            with suppress(DatasetError):
                description.kinds(header or [])
                return f" (with the delimiter {name} all would be there: `delimiter: {json.dumps(delimiter)}`?)"
    return ""


def header_of(line: bytes, description: TableDescription) -> list[str] | None:
    """Names of the columns in the first line of a file; None where its quotes are out of place."""
    fields = Grammar(description, (), {}).split(line)
    return None if fields is None else list(_unquoted(fields))


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _unquoted(fields: Sequence[bytes]) -> Iterator[str]:
    for field in fields:
        text = field.decode("utf-8", "replace")
        yield text[1:-1].replace('""', '"') if text.startswith('"') else text
