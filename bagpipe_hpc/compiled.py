"""Functions that numba compiles, and the directory that keeps their machine code from one start to the next.

To compile all functions of a job takes about half a minute, to load them a second. The machine code is kept in the
first of these directories that can be written:

1. NUMBA_CACHE_DIR, if that variable is set
2. `__pycache__` of this package
3. XDG_CACHE_HOME/bagpipe_hpc/numba, or ~/.cache/bagpipe_hpc/numba if XDG_CACHE_HOME is not set
4. TMPDIR/bagpipe_hpc-<user id>/numba, with /tmp if TMPDIR is not set, and only if nobody else can write to it

If none of them can be written, every start compiles all functions again.
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
from threading import RLock
from typing import Any, NamedTuple, TypeVar, cast

import numba

PACKAGE = Path(__file__).parent
Function = TypeVar("Function", bound=Callable[..., Any])
_NUMBA: Any = numba.config
_DECORATING = RLock()
_IN_KERNELS = re.compile(rb"^@compiled|^class .*NamedTuple", re.MULTILINE)


class CodeCache(NamedTuple):
    """The directory that keeps machine code.

    Args:
        directory: None if no directory can be written.
        origin: What named the directory: a variable of the environment, "the package" or "the home directory".
    """

    directory: Path | None
    origin: str


def choose_code_cache(
    environment: Mapping[str, str], package: Path = PACKAGE, temporary: str | Path = "/tmp"
) -> CodeCache:
    """Return the first directory of the module's list that can be written. It is created if it does not exist.

    Args:
        environment: The variables of the environment.
        package: The directory of this package.
        temporary: Used in place of TMPDIR if that is not set.
    """
    if (named := environment.get("NUMBA_CACHE_DIR")) and _is_writable(Path(named)):
        return CodeCache(Path(named), "NUMBA_CACHE_DIR")
    if _is_writable(package / "__pycache__"):
        return CodeCache(package / "__pycache__", "the package")
    for origin, home in _homes(environment):
        if _is_writable(home / "bagpipe_hpc" / "numba"):
            return CodeCache(home / "bagpipe_hpc" / "numba", origin)
    private = private_directory(environment, temporary)
    if private is not None and _is_writable(private / "numba"):
        return CodeCache(private / "numba", "TMPDIR")
    return CodeCache(None, "")


def private_directory(environment: Mapping[str, str], temporary: str | Path = "/tmp") -> Path | None:
    """Return TMPDIR/bagpipe_hpc-<user id>, where nobody else can write; None if there can be no such directory.

    Args:
        environment: The variables of the environment.
        temporary: Used in place of TMPDIR if that is not set.
    """
    private = Path(environment.get("TMPDIR") or temporary) / f"bagpipe_hpc-{os.getuid()}"
    return private if _is_private(private) else None


def _homes(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if xdg := environment.get("XDG_CACHE_HOME"):
        yield "XDG_CACHE_HOME", Path(xdg)
    elif home := environment.get("HOME"):
        yield "the home directory", Path(home) / ".cache"


def _is_writable(directory: Path) -> bool:
    """Return whether a file can be created in it. File systems may be read-only, whatever the permissions say."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True


def _is_private(directory: Path) -> bool:
    """Return whether a directory belongs to this user and nobody else can write to it. Create it if it does not exist.

    Numba unpickles what it loads. So anybody who can write to its cache can run code as this user.
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

    By itself, numba compiles a function again only when the file of that function has changed. With this digest it does
    so, too, when another file has changed that defines a function it calls or a NamedTuple it takes.
    """
    sources = (path.read_bytes() for path in sorted(package.rglob("*.py")))
    return hashlib.sha256(b"".join(source for source in sources if _IN_KERNELS.search(source))).hexdigest()


def compiled(function: Function) -> Function:
    """Decorate a function: numba compiles it at its first call, or loads what an earlier start compiled.

    The compiled function releases Python's lock while it runs.
    """
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
    """Set numba's cache directory while a function is decorated. Functions of other packages keep theirs.

    The directory belongs to the process, so threads that import modules at the same time take turns.
    """
    with _DECORATING:
        before = _NUMBA.CACHE_DIR
        _NUMBA.CACHE_DIR = str(directory)
        try:
            yield
        finally:
            _NUMBA.CACHE_DIR = before


def _tolerate_full_disks(code_cache: Any) -> None:
    """Go on without keeping the machine code if it cannot be written, for example because a disk quota is used up."""
    save = code_cache.save_overload

    def save_if_possible(signature: Any, result: Any) -> None:
        with suppress(OSError):
            save(signature, result)

    code_cache.save_overload = save_if_possible


def _tolerate_unreadable_indices(cache_file: Any) -> None:
    """Treat an index that cannot be read as an empty one: compile the function again, and replace the index.

    An index of another version of this package may name modules that no longer exist.
    """
    load_index = cache_file._load_index

    def load_index_if_possible() -> Any:
        try:
            return load_index()
        except Exception:
            return {}

    cache_file._load_index = load_index_if_possible
