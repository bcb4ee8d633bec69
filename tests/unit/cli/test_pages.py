"""Pages that commands write."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.cli.pages import require_libraries, write_page
from bagpipe_hpc.errors import BagpipeError, PlatformError


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_libraries("--html", "leave it out")
    real = builtins.__import__

    def without_altair(name: str, *rest: Any) -> Any:
        if name == "altair":
            raise ModuleNotFoundError("No module named 'altair'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_altair)
    with pytest.raises(PlatformError, match=r"--html needs altair: install it with .*\[report\].*, or leave it out"):
        require_libraries("--html", "leave it out")


def test_a_page_replaces_an_older_one(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", b"old", "--html")
    write_page(tmp_path / "page.html", b"new", "--html")
    assert (tmp_path / "page.html").read_bytes() == b"new"
    with pytest.raises(BagpipeError, match=r"page.html cannot be written: .*; free space, .* with --html"):
        write_page(tmp_path / "none" / "page.html", b"new", "--html")
