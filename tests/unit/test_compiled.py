"""Where machine code is kept: the first directory that can be written, and none that other users can write to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bagpipe_hpc import compiled as compiled_module
from bagpipe_hpc.compiled import CodeCache, choose_code_cache, source_stamp
from tests.launch import REPO_ROOT

NOWHERE = Path("/proc/nowhere")  # no user, not even root, can make a directory there


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, str]:
    return {
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
    }


def test_the_first_directory_that_can_be_written_is_chosen(tmp_path: Path, homes: dict[str, str]) -> None:
    package = tmp_path / "package"
    assert choose_code_cache(homes, package) == CodeCache(tmp_path / "numba", "NUMBA_CACHE_DIR")
    homes["NUMBA_CACHE_DIR"] = str(NOWHERE)
    assert choose_code_cache(homes, package) == CodeCache(package / "__pycache__", "the package")
    assert choose_code_cache(homes, NOWHERE) == CodeCache(tmp_path / "xdg/bagpipe_hpc/numba", "XDG_CACHE_HOME")
    del homes["XDG_CACHE_HOME"]
    expected = CodeCache(tmp_path / "home/.cache/bagpipe_hpc/numba", "the home directory")
    assert choose_code_cache(homes, NOWHERE) == expected
    homes["HOME"] = str(NOWHERE)
    private = tmp_path / f"bagpipe_hpc-{os.getuid()}"
    assert choose_code_cache(homes, NOWHERE) == CodeCache(private / "numba", "TMPDIR")
    assert private.stat().st_mode & 0o777 == 0o700
    homes["TMPDIR"] = str(NOWHERE)
    assert choose_code_cache(homes, NOWHERE) == CodeCache(None, "")


def test_without_variables_the_last_resort_is_the_temporary_directory(tmp_path: Path) -> None:
    assert choose_code_cache({}, NOWHERE, tmp_path).origin == "TMPDIR"


@pytest.mark.parametrize("kind", ["writable by others", "a link"])
def test_a_temporary_directory_that_others_control_is_not_used(tmp_path: Path, kind: str) -> None:
    private = tmp_path / f"bagpipe_hpc-{os.getuid()}"
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "elsewhere")
    else:
        private.mkdir()
        private.chmod(0o777)
    assert choose_code_cache({"TMPDIR": str(tmp_path)}, NOWHERE) == CodeCache(None, "")


MIX = "from bagpipe_hpc.splitmix import mix; from bagpipe_hpc.compiled import CODE_CACHE; mix(1); print(CODE_CACHE)"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare to mount")
@pytest.mark.parametrize("caches_in", ["", "tmpfs too small for any machine code"])
def test_compiled_code_works_where_nothing_can_be_written(tmp_path: Path, caches_in: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mounts = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount -t tmpfs -o size=4k none "$2"'
    program = [sys.executable, "-c", MIX]
    environment = {"PATH": os.environ["PATH"], "HOME": str(NOWHERE), "TMPDIR": str(NOWHERE)}
    if caches_in:
        environment["NUMBA_CACHE_DIR"] = str(scratch)
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} && shift 2 && exec "$@"', "sh"]
    command += [str(REPO_ROOT / "bagpipe_hpc"), str(scratch), *program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPO_ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = CodeCache(scratch, "NUMBA_CACHE_DIR") if caches_in else CodeCache(None, "")
    assert (done.stdout.strip(), done.stderr) == (str(expected), "")


def test_machine_code_is_made_anew_where_any_source_of_it_has_changed(tmp_path: Path) -> None:
    def stamp(function: str, other: str = "") -> str:
        (tmp_path / "function.py").write_text(function)
        (tmp_path / "other.py").write_text(other)
        return source_stamp.__wrapped__(tmp_path)

    before = stamp("@compiled\ndef f(): ...", "class Pair(NamedTuple):\n    a: int")
    assert stamp("@compiled\ndef f(): ...", "class Pair(NamedTuple):\n    b: int") != before
    assert stamp("@compiled\ndef g(): ...", "class Pair(NamedTuple):\n    a: int") != before
    without = stamp("@compiled\ndef f(): ...", "nothing compiled")
    assert stamp("@compiled\ndef f(): ...", "nothing compiled, and changed") == without


def test_an_index_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    """An index may name modules that this version of the package does not have."""
    environment = {"PATH": os.environ["PATH"], "NUMBA_CACHE_DIR": str(tmp_path)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", MIX], capture_output=True, text=True, env=environment, cwd=REPO_ROOT, timeout=120
        )

    assert run().returncode == 0
    (index,) = tmp_path.rglob("splitmix.mix*.nbi")
    content = index.read_bytes()
    index.write_bytes(content.replace(b"numba.core.types", b"numba.gone.types"))
    assert index.read_bytes() != content
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert b"numba.gone" not in index.read_bytes()


def test_threads_that_import_modules_at_the_same_time_take_turns(tmp_path: Path) -> None:
    """Otherwise one would put the directory back while the other decorates a function."""
    seen: list[str] = []
    before = compiled_module._NUMBA.CACHE_DIR

    def decorate() -> None:
        with compiled_module._numba_caches_in(tmp_path / "other"):
            seen.append(compiled_module._NUMBA.CACHE_DIR)

    with compiled_module._numba_caches_in(tmp_path / "mine"):
        other = threading.Thread(target=decorate)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert str(tmp_path / "mine") == compiled_module._NUMBA.CACHE_DIR
    other.join()
    assert seen == [str(tmp_path / "other")]
    assert before == compiled_module._NUMBA.CACHE_DIR
