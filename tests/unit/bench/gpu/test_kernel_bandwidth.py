"""Bytes of the kernels on rows, as docs/gpu.md has them. test_resident.py measures them."""

from __future__ import annotations

from bagpipe_hpc.bench.gpu.kernel_bandwidth import RowCounts


def test_bytes_of_a_batch_of_16384() -> None:
    ids = 16_384 * 26
    counts = RowCounts(rows=0, ids=ids, vectors=ids, row_dim=48, row_width=48)
    assert round(counts.bytes_of("pool_rows") / 1e6) == 167
    assert round(counts.bytes_of("add_row_gradients") / 1e6) == 83
    row = RowCounts(rows=1, ids=0, vectors=0, row_dim=48, row_width=96)
    assert [row.bytes_of(name) for name in ("gather_rows", "update_rows")] == [388, 772 + 196]
