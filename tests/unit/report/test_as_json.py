"""The figures as JSON are those of the charts."""

from __future__ import annotations

import json
from pathlib import Path

from bagpipe_hpc.report.as_json import tree_of
from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.run_directory import read_run

from .synthetic import write_run


def test_the_tree(tmp_path: Path) -> None:
    tree = json.loads(json.dumps(tree_of(RunFigures(read_run(write_run(tmp_path / "run"))))))
    assert (tree["run"], tree["state"], tree["settings"]["mode"]) == ("run", "done", "cached")
    assert [row["iteration"] for row in tree["loss"]] == [20, 40, 60]
