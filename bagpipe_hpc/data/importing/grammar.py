"""The pattern that lines of a text file must match, and what is wrong with a line that does not."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

import pyarrow as pa
from pyarrow import csv

from bagpipe_hpc.data.importing.click_logs import log_of
from bagpipe_hpc.data.importing.description import NEVER_MISSING, Kind, TableDescription
from bagpipe_hpc.data.importing.formats import BOM
from bagpipe_hpc.errors import DatasetError

pa.enable_signal_handlers(False)  # otherwise Arrow intercepts a SIGTERM that comes while it parses, and may lose it

# The pattern of a field, and its meaning in words. Numbers fit float32, integers int64. Single characters are repeated
# possessively, so that nothing is tried twice. Groups are not, because Python before 3.11.5 then rejects valid lines.
_VALUES: Mapping[Kind, tuple[str, str]] = {
    "binary": ("[01]", "0 or 1 (other numbers are labels with a `threshold`, or of `type: real`)"),
    "rating": (
        number := r"-?+(?:[0-9](?:\.[0-9]*+)?[eE]\+?+(?:[0-2]?[0-9]|3[0-7])(?![0-9])"
        r"|(?:[0-9]{1,18}+(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE](?:-[0-9]{1,3}+|\+?+[01]?[0-9](?![0-9])))?)",
        "a number below 1e37",
    ),
    "optional_binary": ("[01]?", "empty, 0 or 1 (other numbers are labels with a `threshold`, or of `type: real`)"),
    "weight": (number.removeprefix("-?+"), "a number that is not negative"),
    **dict.fromkeys(("number", "moment"), (f"(?:{number})?", "empty or a number below 1e37")),
    "integer": ("(?:-?+[0-9]{1,18}+)?", "empty or an integer of at most 18 digits"),
    "hexadecimal": ("[0-9a-fA-F]{0,8}+", "empty or at most 8 hexadecimal digits"),
}
_ARROW_TYPES: Mapping[Kind, pa.DataType] = dict.fromkeys(("hexadecimal", "text", "element", "time"), pa.binary())
_OFTEN_MISSING = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", r"\n", "missing"}  # in lower case
_OFTEN = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}


class Grammar:
    """The lines of files with one header.

    Args:
        description: Gives delimiter, quoting and missing values.
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
        """Return the text of the valid lines and, for each other line, its number from 0 on and its fault.

        Args:
            lines_before: Number of lines of the file before this text.
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
        """Return columns, named by their positions, of valid lines."""
        if not text:
            return pa.table({str(position): pa.array([], self._type(position)) for position in positions})
        # A label is never missing: a text that means "missing" in other columns may be a label here.
        labels = [position for position in positions if self._kinds[position] in NEVER_MISSING]
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
            text = BOM + text  # Arrow removes one at the start of its input, which may be the middle of a file
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
        """Return the fields of a line with their quotes; None if quotes are out of place."""
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
        if kind in ("text", "element", "time"):
            return self._any
        value = _VALUES[kind][0]
        if self._description.missing and kind not in NEVER_MISSING:
            missing = "|".join(re.escape(text) for text in self._description.missing)
            value = f"(?:(?:{missing})(?={self._end})|{value})"
        return f'(?:"{value}"|{value})' if self._description.quoting else value

    def _fault(self, line: bytes, *, is_first: bool) -> str:
        """Return why a line does not match. is_first: it is the first line of its file."""
        line = line.removesuffix(b"\r")
        fields = self.split(line)
        if b"\r" in line or fields is None:
            return 'has a quoted field that does not end, text beside it, or a line end in it (write " in it as "")'
        if len(fields) != len(self._header):
            return self._number_fault(line, len(fields), is_first)
        if list(_unquoted(fields)) == list(self._header):
            if is_first and self._description.columns:
                return "is a header, but the schema names `columns`, which means that files have none; remove `columns`"
            return "is a header in the middle of the file; perhaps files were joined with cat"
        position = next(i for i in sorted(self._fields) if not re.fullmatch(self._fields[i].encode(), fields[i]))
        value = fields[position][:40].decode("utf-8", "replace")
        fault = describe_fault(position, self._header, value, _VALUES[self._kinds[position]][1])
        return fault + self._missing_hint(value.strip('"'), self._kinds[position])

    def _number_fault(self, line: bytes, num_fields: int, is_first: bool) -> str:
        """Return the fault of a line with num_fields fields, which is a wrong number."""
        separated = _OFTEN.get(self._description.delimiter, repr(self._description.delimiter))
        plural = "" if num_fields == 1 else "s"
        one_less = self._description.columns and num_fields == len(self._header) - 1
        hint = " (is this a file without labels? then import it with --no-label)" if one_less else ""
        if not line:
            hint = " (the line is empty)"
        elif log := log_of(self._description):
            hint = hint or self._log_hint(line, log, is_first)
        else:
            hint = self._delimiter_hint(line) or hint
        needed = len(self._header)
        return f"has {num_fields} {separated}-separated column{plural}, but {needed} {_are(needed)} needed{hint}"

    def _log_hint(self, line: bytes, log: str, is_first: bool) -> str:
        """Return a hint if the file seems not to be this click log."""
        if self._description.delimiter.encode() in line and not is_first:
            return ""
        others = _OFTEN.keys() - {self._description.delimiter}
        most = max(sorted(others), key=lambda delimiter: line.count(delimiter.encode()))
        looks = f" the line looks {_OFTEN[most]}-separated;" if most.encode() in line else ""
        return f" (is this a {log} log?{looks} `bagpipe import table` imports files of any layout)"

    def _missing_hint(self, value: str, kind: Kind) -> str:
        """Return how to declare a text that often means a missing value; empty for click logs, which have none."""
        is_often = value.lower() in _OFTEN_MISSING
        if log_of(self._description):
            return ""
        if kind in ("binary", "rating") and (is_often or not value):
            return " (if this label may be missing, give it under `labels` with `optional: true`)"
        if not is_often or kind in NEVER_MISSING:
            return ""
        return missing_hint([*self._description.missing, value])

    def _delimiter_hint(self, line: bytes) -> str:
        for delimiter, name in _OFTEN.items():
            if line.count(delimiter.encode()) == len(self._header) - 1 > 0:
                return f" (that is the number with the delimiter {name}: set `delimiter: {json.dumps(delimiter)}`?)"
        return ""

    def _type(self, position: int) -> pa.DataType:
        return _ARROW_TYPES.get(self._kinds[position], pa.float64())


def describe_fault(position: int, header: Sequence[str], value: str, allowed: str) -> str:
    """Return the fault of a value that its column must not have."""
    return f"column {position + 1} ({header[position]}) is {value!r}, but must be {allowed}"


def missing_hint(texts: Sequence[str]) -> str:
    """Return the setting of a schema that declares these texts as missing values."""
    plain = (text if re.fullmatch("[A-Z]+|NaN", text) and text != "NULL" else json.dumps(text) for text in texts)
    return f" (if this means a missing value, write `missing: [{', '.join(plain)}]` in the schema)"


def header_hint(header: Sequence[str]) -> str:
    """Return a hint if a header lacks a column and looks like a line of values; else an empty text."""
    if not any(re.fullmatch(r"-?[0-9.]+(?:[eE][-+]?[0-9]+)?|", name) for name in header):
        return ""
    return " (line 1 looks like values: if files have no header, name all columns in the schema: `columns: [...]`)"


def delimiter_hint(line: bytes, description: TableDescription) -> str:
    """Return a hint if the header lacks a column, but has all with another delimiter; else an empty text."""
    for delimiter, name in _OFTEN.items():
        if delimiter != description.delimiter and delimiter.encode() in line:
            header = header_of(line, description.model_copy(update={"delimiter": delimiter}))
            with suppress(DatasetError):
                description.kinds(header or [])
                return f" (all columns exist with the delimiter {name}: set `delimiter: {json.dumps(delimiter)}`?)"
    return ""


def header_of(line: bytes, description: TableDescription) -> list[str] | None:
    """Return the names of the columns in the first line of a file; None if its quotes are out of place."""
    fields = Grammar(description, (), {}).split(line)
    return None if fields is None else list(_unquoted(fields))


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _unquoted(fields: Sequence[bytes]) -> Iterator[str]:
    for field in fields:
        text = field.decode("utf-8", "replace")
        yield text[1:-1].replace('""', '"') if text.startswith('"') else text
