"""Mistakes in a schema file are told in its own words, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.data.importing.schema_file import load_description
from bagpipe_hpc.errors import ConfigError

SOUND = "label: y\ncategorical: [c]\n"
FOREIGN_WORDS = (
    "pydantic",
    "Input should",
    "Extra inputs",
    "Field required",
    "validation error",
    "dictionary",
    "tuple",
)


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (
            "label: y\ncategoricals: [c]\n",
            ["line 2: unknown setting 'categoricals' (did you mean categorical?)", "lists"],
        ),
        ("lable: y\ncategorical: [c]\n", ["line 1: unknown setting 'lable' (did you mean label?)"]),
        ("labels: y\ncategorical: [c]\n", ["line 1: labels = 'y': must be a list, as in `labels: [y]`"]),
        (SOUND + "labels: [z]\n", ["label and labels are both given; put all labels under labels"]),
        ("weight: w\ncategorical: [c]\n", ["weight says how much labels count, but there are none"]),
        (
            "labels: [{column: y, threshold: 3, type: real}]\ncategorical: [c]\n",
            ["a threshold makes labels of 0 and 1"],
        ),
        ("labels: [y, y]\ncategorical: [c]\n", ["used more often: y"]),
        (
            SOUND + "foo: 1\n",
            ["line 3: unknown setting 'foo'; valid here: label, labels, weight, group, time, dense, categorical"],
        ),
        (
            SOUND + "dense:\n- {column: d, tranform: log}\n",
            ["line 4: unknown setting 'dense[1].tranform' (did you mean transform?)"],
        ),
        ("label: {column: y, treshold: 4}\ncategorical: [c]\n", ["'label.treshold' (did you mean threshold?)"]),
        ("label: {threshold: 4}\ncategorical: [c]\n", ["label.column is not given"]),
        (SOUND + "time: {column: t, fromat: x}\n", ["line 3: unknown setting 'time.fromat' (did you mean format?)"]),
        ("label: y\n", ["no column is under categorical or lists; put at least one there"]),
        ("label: y\ncategorical: c\n", ["line 2: categorical = 'c': must be a list, as in `categorical: [c]`"]),
        ("label: y\ncategorical: {c: text}\n", ["categorical = {'c': 'text'}: must be a list"]),
        (
            "label: yes\ncategorical: [c]\n",
            ["line 1: label = True: must be the name of a column, in quotes if YAML"],
        ),
        ("label: y\ncategorical: [c, no]\n", ["categorical[2] = False: must be the name of a column, in quotes"]),
        ("label: y\ncategorical: [c, 1.5]\n", ["categorical[2] = 1.5: must be the name of a column, in quotes"]),
        (
            "label: y\ncategorical: [c, 2020-01-01]\n",
            ["categorical[2] = ", "must be a column, by name or number, or a mapping"],
        ),
        ("label: y\ncategorical: [c, [d]]\n", ["categorical[2] = ['d']: must be a column, by name or number"]),
        ("label: 0\ncategorical: [c]\n", ["label = 0: must be the name of a column", "or its number counted from 1"]),
        ("label: -1\ncategorical: [c]\n", ["label = -1: must be the name of a column"]),
        ("label: y\ncategorical: [{column: c, min_count: 0}]\n", ["categorical[1].min_count = 0: must be at least 1"]),
        (
            "label: y\ncategorical: [{column: c, hash_rows: 1e3}]\n",
            ["categorical[1].hash_rows = '1e3': must be an integer"],
        ),
        ("label: y\ncategorical: [{column: c, hash_rows: many}]\n", ["hash_rows = 'many': must be an integer"]),
        (
            "label: y\ncategorical: [{column: c, type: txt}]\n",
            ["type = 'txt': must be 'text', 'hexadecimal' or 'integer'"],
        ),
        (
            SOUND + "history: item\n",
            ["line 3: history = 'item': must be a mapping, as in `history: {of: item"],
        ),
        (
            "label: y\ncategorical: [{column: c, dynamic: {capacty: 3}}]\n",
            ["'categorical[1].dynamic.capacty' (did you mean capacity?); valid here: capacity, admit_after, admit_by"],
        ),
        (
            SOUND + "lists:\n- {column: l, dynamic: {capacity: 3, expire_after: 30d}}\n",
            ["l expires after 30d of data time, but no column has times; name it under `time`, or give a number of"],
        ),
        (
            SOUND + "lists:\n- {column: l, dynamic: {capacity: 3, expires: 30d}}\n",
            ["line 4: unknown setting 'lists[1].dynamic.expires' (did you mean expire_after?); valid here: capacity"],
        ),
        (
            SOUND + "history: {of: c, by: {colum: u}}\n",
            ["'history[1].by.colum' (did you mean column?); valid here: column"],
        ),
        (SOUND + "missing: 'NULL'\n", ["line 3: missing = 'NULL': must be a list, as in `missing: [NULL]`"]),
        (SOUND + "missing: [0]\n", ["missing[1] = 0: must be text"]),
        (
            SOUND + "missing: ['a,b']\n",
            ["'a,b' contains the delimiter, a quote or a line end, so it cannot"],
        ),
        (SOUND + "delimiter: \\t\n", ["delimiter = ", "must be one ASCII character", r'such as "," or "\t"']),
        (SOUND + "quoting: maybe\n", ["quoting = 'maybe': must be true or false"]),
        (SOUND + "columns: []\n", ["columns = []: must hold at least 1, but holds 0"]),
        ("label: y\ncategorical: [c, c]\n", ["used more often: c; give columns that are used twice a `name`"]),
        ("label: y\ncategorical: [a b]\n", ["'a b' cannot be a name in the data set", "give the column a name"]),
        ("label: y\nlabel: z\ncategorical: [c]\n", ["line 2", "label"]),
        ("- y\n", ["must be a mapping of settings (label, labels, weight, group, time, dense, categorical, lists, "]),
        ("", ["no column is under categorical or lists"]),
    ],
)
def test_mistakes(tmp_path: Path, content: str, reasons: list[str]) -> None:
    (tmp_path / "schema.yaml").write_text(content)
    with pytest.raises(ConfigError, match="schema") as refused:
        load_description(tmp_path / "schema.yaml")
    said = str(refused.value)
    assert [reason for reason in reasons if reason not in said] == [], said
    assert [words for words in FOREIGN_WORDS if words in said] == [], said
    assert "\n" not in said


def test_mistakes_of_a_single_history_and_of_elements(tmp_path: Path) -> None:
    lines = (
        "categorical: [item]",
        "history:",
        "  of: item",
        "  by: user",
        "  max_length: 0",
        "  elements:",
        "  - {kind: x}",
    )
    (tmp_path / "schema.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as refused:
        load_description(tmp_path / "schema.yaml")
    for part in (
        "line 5: history[1].max_length = 0: must be at least 1",
        "line 7: unknown setting",
        "valid here: column,",
    ):
        assert part in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: is missing; check the path of the schema"):
        load_description(tmp_path / "none.yaml")


def test_two_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text("lable: y\ncategoricals: [c]\n")
    with pytest.raises(ConfigError, match=r"line 1: .*did you mean label\?.*; line 2: .*did you mean categorical\?"):
        load_description(tmp_path / "schema.yaml")
