from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.data import _count
from bagpipe_hpc.cli.main import app, main
from bagpipe_hpc.data.dataset import open_dataset


def bagpipe(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_synth_and_inspect(tmp_path: Path) -> None:
    path = tmp_path / "clicks"
    summary = bagpipe("synth", "--output", path, "--samples", 1000, "--profile", "avazu", "--scale", 0.001)
    assert "900 training and 100 validation samples" in summary
    assert "0 dense features, 22 tables" in summary
    report = bagpipe("inspect", path)
    for expected in ("profile: avazu", "device_ip", "6,730", "22,000", "chunks of 8,192 samples, compression: none"):
        assert expected in report


def test_inspect_says_what_caches_need(tmp_path: Path) -> None:
    path = tmp_path / "clicks"
    bagpipe("synth", "--output", path, "--samples", 10_000, "--profile", "avazu", "--scale", 0.001)
    report = bagpipe("inspect", path)
    for expected in ("by batch size: rows of", "accesses of training", "drift:", "B = 1,024: with lookahead.window"):
        assert expected in report
    page = tmp_path / "page.html"
    figures = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json", "--html", str(page)]).stdout)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert [each["batch_size"] for each in figures["accesses"]["reuses"]] == [1024, 4096]
    assert figures["splits"][0]["num_read"] == 9000


def test_import_and_inspect(tmp_path: Path) -> None:
    lines = ["\t".join(["1", *["5"] * 13, *["c0ffee"] * 26]) + "\n"] * 20
    (tmp_path / "clicks.txt").write_text("".join(lines))
    path = tmp_path / "clicks"
    options = ("--min-count", 2, "--validation-fraction", 0.25, "--samples-per-shard", 4, "--compression", "gzip")
    summary = bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", path, *options)
    assert "15 training and 5 validation samples" in summary
    assert "6 shards" in summary
    assert open_dataset(path).schema.num_embeddings == (2,) * 26
    assert "compression: gzip" in bagpipe("inspect", path, "--max-samples", 0)
    assert f"good     {path / 'vocabulary.h5'}" in bagpipe("inspect", path, "--verify")
    (path / "vocabulary.h5").write_bytes(b"damaged")
    damaged = CliRunner().invoke(app, ["inspect", str(path), "--verify"])
    assert damaged.exit_code == 1
    assert f"damaged  {path / 'vocabulary.h5'}: is damaged" in damaged.output


def test_histories(tmp_path: Path) -> None:
    lines = [f"{i % 2},u{i % 3},i{i % 5},{i}\n" for i in range(30)]
    (tmp_path / "log.csv").write_text("clicked,user,item,time\n" + "".join(lines))
    (tmp_path / "schema.yaml").write_text(
        "label: clicked\ncategorical: [user, item]\n"
        "history: {of: item, by: user, order: time, max_length: 4, along: [user], elements: [time]}\n"
    )
    path, options = tmp_path / "data", ("--min-count", 1, "--schema", tmp_path / "schema.yaml")
    assert "4 tables" in bagpipe("import", "table", tmp_path / "log.csv", "--output", path, *options)
    report = bagpipe("inspect", path)
    for expected in ("3 (10.0%)", "item_history: time from 0 to 26, along with it item_history_user"):
        assert expected in report


def test_avazu_and_the_same_by_a_schema_file(tmp_path: Path) -> None:
    header = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    header += "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
    names = header.split(",")
    lines = [",".join([str(i), str(i % 2), *(f"v{i % 3}" for _ in names[2:])]) for i in range(10)]
    (tmp_path / "clicks.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "schema.yaml").write_text(f"label: click\ncategorical: [{', '.join(names[2:])}]")
    options = ("--min-count", 1, "--validation-fraction", 0)
    bagpipe("import", "avazu", tmp_path / "clicks.csv", "--output", tmp_path / "a", *options)
    schema = ("--schema", tmp_path / "schema.yaml")
    bagpipe("import", "table", tmp_path / "clicks.csv", "--output", tmp_path / "b", *schema, *options)
    datasets = [open_dataset(tmp_path / name) for name in "ab"]
    assert datasets[0].schema == datasets[1].schema
    assert datasets[0].schema.num_embeddings == (4,) * 22
    assert [dataset.origin["command"] for dataset in datasets] == ["import avazu", "import table"]
    shards = [(dataset.path / dataset.train.shards[0].file).read_bytes() for dataset in datasets]
    assert shards[0] == shards[1]


def test_bad_lines_are_counted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "clicks.txt").write_text("1" + "\t" * 39 + "\nbad\n")
    output = bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", tmp_path / "clicks", "--max-bad-lines", 1)
    assert "skipped 1 bad line; the first:" in output
    assert "clicks.txt: line 2: has 1 tab-separated column" in output


def test_hashing(tmp_path: Path) -> None:
    (tmp_path / "clicks.txt").write_text("1" + "\t" * 39 + "\n")
    bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", tmp_path / "clicks", "--hash-rows", 10)
    assert open_dataset(tmp_path / "clicks").schema.num_embeddings == (10,) * 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none"], "none: is not a directory; give the output directory of"),
        (["import", "criteo", "none.txt", "--output", "out"], "none.txt: is missing; check the path of the input"),
        (["synth", "--output", "out", "--samples", "0"], "the number of samples is 0, but must be at least 1"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bagpipe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"bagpipe: error: {message}")
    assert not list(tmp_path.iterdir())


def test_a_choice_that_is_none_is_refused_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bagpipe", "jobs", "render", "--system", "sge"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "'--system': 'sge' is not one of 'slurm', 'pbs', 'lsf', 'flux'." in capsys.readouterr().err


@pytest.mark.parametrize(("number", "said"), [(0, "0 tables"), (1, "1 table"), (1200, "1,200 tables")])
def test_one_thing_is_singular(number: int, said: str) -> None:
    assert _count(number, "table") == said


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, bagpipe_hpc.cli.main; "
        "print(sorted({'torch', 'mpi4py', 'h5py', 'numba', 'numpy', 'pyarrow', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [["inspect", "x" * 300], ["synth", "--samples", "1", "--output", "x" * 300], ["report", "x" * 300]]
)
def test_a_path_that_cannot_be_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bagpipe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert output.err.count("\n") == 1
    assert output.err.startswith("bagpipe: error: ")


def test_whoever_reads_the_output_may_leave(tmp_path: Path) -> None:
    bagpipe("synth", "--output", tmp_path / "clicks", "--samples", 100, "--profile", "avazu", "--scale", 0.001)
    command = [sys.executable, "-m", "bagpipe_hpc", "inspect", str(tmp_path / "clicks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert [line for line in run.stderr.read().splitlines() if "reading" not in line] == ["opening all shards"]


def test_a_table_without_frequent_values_is_noted(tmp_path: Path) -> None:
    (tmp_path / "clicks.txt").write_text("1" + "\t" * 14 + "\t".join(["c0ffee"] * 26) + "\n")
    output = bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", tmp_path / "clicks")
    assert "no value of C1, C2, C3, C4, C5 and 21 more occurs 4 times or more" in output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_synth_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    arguments = [
        "synth",
        "--output",
        str(tmp_path / "clicks"),
        "--samples",
        "1000000000",
        "--samples-per-shard",
        "9000",
    ]
    with subprocess.Popen([sys.executable, "-m", "bagpipe_hpc", *arguments], stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while not list(tmp_path.glob(".clicks.partial-*/train/*.h5")):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        run.send_signal(signum)
        said = run.stderr.read().splitlines()
    assert run.returncode == 2
    assert said[-1] == f"bagpipe: error: ended by {signum.name}; unfinished output is deleted"
    assert not list(tmp_path.iterdir())
