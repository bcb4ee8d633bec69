"""Functions compiled by numba, and where their machine code is kept from one start to the next.

Compiling everything that a job needs takes about half a minute, loading it a second. The machine code is kept in the
first of these directories that can be written:

1. NUMBA_CACHE_DIR, where it is set
2. `__pycache__` of this package
3. XDG_CACHE_HOME/bagpipe_hpc/numba; without XDG_CACHE_HOME, ~/.cache/bagpipe_hpc/numba
4. TMPDIR/bagpipe_hpc-<user id>/numba; without TMPDIR, /tmp; only if nobody else can write to that directory

Where none can be written, every start compiles again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba

PACKAGE = Path(__file__).parent
Function = TypeVar("Function", bound=Callable[..., Any])
_NUMBA: Any = numba.config
_IN_KERNELS = re.compile(rb"^@compiled|^class .*NamedTuple", re.MULTILINE)


class CodeCache(NamedTuple):
    """Where machine code is kept.

    Args:
        directory: None where no directory can be written.
        origin: What named the directory: a variable of the environment, "the package" or "the home directory".
    """

    directory: Path | None
    origin: str


def choose_code_cache(
    environment: Mapping[str, str], package: Path = PACKAGE, temporary: str | Path = "/tmp"
) -> CodeCache:
    """Return the first directory of the module's list that can be written. Makes directories, reads none.

    Args:
        package: Where the source files are.
        temporary: What stands in for TMPDIR where that is not set.
    """
    if (named := environment.get("NUMBA_CACHE_DIR")) and _is_writable(Path(named)):
        return CodeCache(Path(named), "NUMBA_CACHE_DIR")
    if _is_writable(package / "__pycache__"):
        return CodeCache(package / "__pycache__", "the package")
    for origin, home in _homes(environment):
        if _is_writable(home / "bagpipe_hpc" / "numba"):
            return CodeCache(home / "bagpipe_hpc" / "numba", origin)
    private = Path(environment.get("TMPDIR") or temporary) / f"bagpipe_hpc-{os.getuid()}"
    if _is_private(private) and _is_writable(private / "numba"):
        return CodeCache(private / "numba", "TMPDIR")
    return CodeCache(None, "")


def _homes(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if xdg := environment.get("XDG_CACHE_HOME"):
        yield "XDG_CACHE_HOME", Path(xdg)
    elif home := environment.get("HOME"):
        yield "the home directory", Path(home) / ".cache"


def _is_writable(directory: Path) -> bool:
    """Whether a file can be made there. Permissions alone do not say so: file systems may be read-only."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True


def _is_private(directory: Path) -> bool:
    """Whether the directory is this user's and nobody else can write to it; it is made where there is none.

    Numba unpickles what it loads, so whoever can write to its cache can run code as this user.
    """
    with suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return False


CODE_CACHE = choose_code_cache(os.environ)


@cache
def source_stamp(package: Path = PACKAGE) -> str:
    """Return the digest of all source files that compiled functions are made from.

    By itself numba looks at the file of a function only, and keeps its machine code where a function that it calls, or
    a NamedTuple that it takes, has changed in another file.
    """
    sources = (path.read_bytes() for path in sorted(package.rglob("*.py")))
    return hashlib.sha256(b"".join(source for source in sources if _IN_KERNELS.search(source))).hexdigest()


def compiled(function: Function) -> Function:
    """Compile a function at its first call, or load what an earlier start compiled; it releases Python's lock."""
    if CODE_CACHE.directory is None:
        return cast(Function, numba.njit(nogil=True)(function))
    with _numba_caches_in(CODE_CACHE.directory):
        dispatcher: Any = numba.njit(nogil=True, cache=True)(function)
    _tolerate_full_disks(dispatcher._cache)
    cache_file = dispatcher._cache._cache_file
    cache_file._source_stamp = source_stamp()
    _tolerate_unreadable_indices(cache_file)
    return cast(Function, dispatcher)


@contextmanager
def _numba_caches_in(directory: Path) -> Iterator[None]:
    """Name the cache directory to numba while a function is decorated; functions of other packages keep theirs."""
    before = _NUMBA.CACHE_DIR
    _NUMBA.CACHE_DIR = str(directory)
    try:
        yield
    finally:
        _NUMBA.CACHE_DIR = before


def _tolerate_full_disks(code_cache: Any) -> None:
    """Go on without keeping the machine code where it cannot be written, for example because a quota is used up."""
    save = code_cache.save_overload

    def save_if_possible(signature: Any, result: Any) -> None:
        with suppress(OSError):
            save(signature, result)

    code_cache.save_overload = save_if_possible


def _tolerate_unreadable_indices(cache_file: Any) -> None:
    """Take an index that cannot be read for an empty one: the function is compiled again, and the index replaced.

    An index of another version of this package may name modules that no longer exist.
    """
    load_index = cache_file._load_index

    def load_index_if_possible() -> Any:
        try:
            return load_index()
        except Exception:
            return {}

    cache_file._load_index = load_index_if_possible
