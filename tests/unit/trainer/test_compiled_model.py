"""Where torch keeps the code that it compiles: nowhere where others can write."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.trainer.code_directory import CACHE
from bagpipe_hpc.trainer.compiled_model import choose_directory

CODE_CACHE = "torch._inductor.codecache"


@pytest.fixture
def code_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """In place of the module of torch, whose import takes seconds."""
    module = SimpleNamespace(_HEADER_DIR="shared", _HEADER_LOCK_DIR="shared/locks")
    monkeypatch.setitem(sys.modules, CODE_CACHE, module)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(CACHE, "")  # so that it gets its value back
    return module


def test_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_cache: SimpleNamespace) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "somewhere"))
    choose_directory()
    assert os.environ[CACHE] == str(tmp_path / "somewhere")
    assert (tmp_path / "somewhere").is_dir()
    assert code_cache._HEADER_DIR == "shared"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    with pytest.raises(ExecutionError, match=r"TORCHINDUCTOR_CACHE_DIR is .*file', which cannot be made a directory"):
        choose_directory()


@pytest.mark.parametrize("by_torch", [False, True])
def test_a_directory_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_cache: SimpleNamespace, by_torch: bool
) -> None:
    """Also if torch has named the one that it would take."""
    if by_torch:
        monkeypatch.setenv(CACHE, f"{tempfile.gettempdir()}/torchinductor_somebody")
    private = tmp_path / f"bagpipe_hpc-{os.getuid()}"
    choose_directory()
    assert os.environ[CACHE] == str(private / "torch")
    assert private.stat().st_mode & 0o777 == 0o700
    headers = str(private / "torch" / "headers")
    assert vars(code_cache) == {"_HEADER_DIR": headers, "_HEADER_LOCK_DIR": f"{headers}/locks"}


def test_a_new_directory_if_others_can_write_there(tmp_path: Path, code_cache: SimpleNamespace) -> None:
    private = tmp_path / f"bagpipe_hpc-{os.getuid()}"
    private.mkdir()
    private.chmod(0o777)
    choose_directory()
    chosen = Path(os.environ[CACHE])
    assert private not in chosen.parents
    assert chosen.stat().st_mode & 0o777 == 0o700
    headers = code_cache._HEADER_DIR
    assert headers == str(chosen / "headers")
