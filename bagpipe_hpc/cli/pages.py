"""What commands that write pages have in common: the libraries they need, and files that appear when complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagpipe_hpc.errors import BagpipeError, PlatformError


def require_libraries(command: str, instead: str) -> None:
    """Check that a page can be made.

    Args:
        command: Who needs the libraries.
        instead: What the user can do without them.
    Raises:
        PlatformError: A library is missing.
    """
    try:
        import altair
        import jinja2
        import vl_convert
    except ImportError as error:
        raise PlatformError(
            f"{command} needs {error.name}: install it with `pip install 'bagpipe_hpc[report]'`, or {instead}"
        ) from None
    del altair, jinja2, vl_convert


@contextmanager
def naming(path: Path, cure: str) -> Iterator[None]:
    """Turn errors of the file system inside the block into one that the user can fix."""
    try:
        yield
    except OSError as error:
        raise BagpipeError(f"{path} cannot be written: {error.strerror}; {cure}") from None


def write_page(path: Path, content: bytes, option: str) -> None:
    """Write a file, which replaces an older one when it is complete.

    Args:
        path: The file.
        content: Its content.
        option: What names another file.
    Raises:
        BagpipeError: The file cannot be written.
    """
    from bagpipe_hpc.checkpoint.durable import replace_durably

    with naming(path, f"free space, fix permissions or choose another file with {option}"):
        replace_durably(path, content)
