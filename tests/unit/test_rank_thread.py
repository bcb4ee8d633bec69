"""Names of threads that libraries start."""

from __future__ import annotations

import threading
from pathlib import Path

from bagpipe_hpc.rank_thread import naming_new_threads


def test_new_threads_have_a_name_in_the_kernel_and_old_ones_keep_theirs() -> None:
    before = Path("/proc/self/comm").read_text()
    is_over = threading.Event()
    with naming_new_threads("a library"):
        thread = threading.Thread(target=is_over.wait, daemon=True)
        thread.start()
    try:
        assert Path(f"/proc/self/task/{thread.native_id}/comm").read_text() == "a library\n"
        assert Path("/proc/self/comm").read_text() == before
    finally:
        is_over.set()
        thread.join()
