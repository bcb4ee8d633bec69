"""Where torch keeps code that it compiles.

torch makes this directory as soon as parts of it are imported, such as its optimizers, and unpickles and runs what it
finds there. Its own choice in TMPDIR has a name that others can guess, and take. So every rank names one that only this
user can write to, before it imports torch: TORCHINDUCTOR_CACHE_DIR if that is set, else
TMPDIR/bagpipe_hpc-<user id>/torch, else a new directory that is removed at the end of the process.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from bagpipe_hpc.compiled import private_directory

CACHE = "TORCHINDUCTOR_CACHE_DIR"
OWN_NAME = "torch"  # of the directory of this package
OWN_CHOICE = "torchinductor_"  # how the directory begins that torch names in CACHE when parts of it are imported
_made: set[str] = set()  # directories that end with the process


def is_own(directory: str) -> bool:
    """Return whether `name_directory` has chosen this directory itself."""
    return directory in _made or os.path.basename(directory) == OWN_NAME


def name_directory() -> str:
    """Tell torch where to keep code, unless the user does, before it chooses a directory that others can guess.

    Returns:
        The directory.
    """
    temporary = Path(tempfile.gettempdir())
    named = Path(os.environ.get(CACHE) or temporary / OWN_CHOICE)
    if named.parent != temporary or not named.name.startswith(OWN_CHOICE):
        return str(named)
    private = private_directory(os.environ, temporary)
    if private is None:
        directory = tempfile.mkdtemp(prefix="bagpipe_hpc-torch-")
        _made.add(directory)
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    else:
        directory = str(private / OWN_NAME)
    os.environ[CACHE] = directory
    return directory
