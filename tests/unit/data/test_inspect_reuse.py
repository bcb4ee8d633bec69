from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.inspect_reuse import BATCH_SIZES, PIECE_SAMPLES, AccessCounts, AccessReport
from bagpipe_hpc.data.schema import Schema, TableSchema


def report_of(ids: np.ndarray[tuple[int, int], np.dtype[np.int64]], num_embeddings: tuple[int, ...]) -> AccessReport:
    tables = tuple(TableSchema(name=f"t{i}", num_embeddings=n) for i, n in enumerate(num_embeddings))
    counts = AccessCounts(Schema(dense=(), tables=tables), len(ids))
    for first in range(0, len(ids), 3 * PIECE_SAMPLES):
        piece = ids[first : first + 3 * PIECE_SAMPLES].astype(np.int32)
        counts.add(Batch(np.zeros(len(piece), np.float32), np.empty((len(piece), 0), np.float32), piece))
    return counts.report()


def test_uses_of_two_tables() -> None:
    # 8 batches of 1,024: row 0 in each, row 1 in batches 0, 3 and 7; in the other table row 0 in the first half.
    ids = np.zeros((8 * 1024, 2), np.int64)
    for batch in (0, 3, 7):
        ids[1024 * batch, 0] = 1
    ids[4 * 1024 :, 1] = 1
    small, large = report_of(ids, (2, 2)).reuses
    assert (small.batch_size, small.num_batches, small.unique_rows, small.most_unique_rows) == (1024, 8, 19 / 8, 3)
    # Uses by batches: 8 + 3 + 4 + 4, of them 4 first ones. Distances: 7 + 6 of 1, one of 3, one of 4.
    assert small.new_share == pytest.approx(4 / 19)
    assert small.median_distance == 1
    ninety, last = small.needs
    assert (ninety.share, ninety.window, ninety.rows) == (0.9, 3, round(19 / 8 + 2 / 8))
    assert (last.window, last.rows) == (4, round(19 / 8 + 5 / 8))
    assert (large.batch_size, large.num_batches, large.unique_rows) == (4096, 2, 3.0)


def test_random_uses_against_dictionaries() -> None:
    ids = (np.random.default_rng(3).pareto(1, (40 * 1024 - 7, 2)) * 5).astype(np.int64) % 3000
    report = report_of(ids, (3000, 3000))
    assert [each.batch_size for each in report.reuses] == list(BATCH_SIZES)
    for each in report.reuses:
        last: dict[tuple[int, int], int] = {}
        distances, uniques = Counter[int](), []
        for batch, first in enumerate(range(0, len(ids), each.batch_size)):
            used = {(t, int(i)) for t in (0, 1) for i in ids[first : first + each.batch_size, t]}
            uniques.append(len(used))
            distances.update(batch - last[key] for key in used if key in last)
            last |= dict.fromkeys(used, batch)
        assert (each.num_batches, each.most_unique_rows) == (len(uniques), max(uniques))
        assert each.unique_rows == pytest.approx(np.mean(uniques))
        assert each.new_share == pytest.approx(len(last) / sum(uniques))
        spread = np.sort(np.repeat(list(distances), list(distances.values())))
        for need in each.needs:
            assert need.window == spread[int(np.ceil(need.share * len(spread))) - 1]
        assert [need.window for need in (each.windows[0], each.windows[-1])] == [1, max(distances)]
        for need in each.windows:
            assert need.window is not None
            within = {distance: n for distance, n in distances.items() if distance <= need.window}
            assert need.share == pytest.approx(sum(within.values()) / len(spread))
            waiting = sum(n * max(0, distance - 1) for distance, n in within.items())
            assert need.rows == round(each.unique_rows + waiting / each.num_batches)
    counts = np.sort(list(Counter((t, int(i)) for t in (0, 1) for i in ids[:, t]).values()))[::-1]
    for part, share in report.hot_shares:
        assert share == pytest.approx(counts[: int(np.ceil(round(1000 * part) * len(counts) / 1000))].sum() / ids.size)
    for part, share in report.skew:
        assert share == pytest.approx(counts[: round(part * len(counts))].sum() / ids.size)


def test_drift() -> None:
    same, moved = np.zeros((20 * 1024, 1), np.int64), np.zeros((20 * 1024, 1), np.int64)
    moved[10 * 1024 :] = 1
    assert (report_of(same, (2,)).drift, report_of(same, (2,)).drift_rows) == (0.0, 1)
    assert report_of(moved, (2,)).drift == 1.0


def test_few_samples_have_one_batch_size_and_no_drift() -> None:
    report = report_of(np.zeros((3, 1), np.int64), (2,))
    (only,) = report.reuses
    assert (only.num_batches, only.new_share, only.median_distance) == (1, 1.0, 0)
    assert [need.window for need in only.needs] == [0, 0]
    assert report.drift is None
