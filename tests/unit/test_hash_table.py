"""The hash table against a dict."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.hash_table import place_of


@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_every_key_has_a_place_of_its_own_and_keeps_it(dtype: type[np.uint32] | type[np.int64]) -> None:
    keys, marks = np.zeros(1024, dtype), np.zeros(1024, np.uint8)
    places: dict[int, int] = {}
    for key in [0, np.iinfo(dtype).max, *np.random.default_rng(0).integers(0, 300, 510).tolist()]:
        place = int(place_of(key, keys, marks))
        assert bool(marks[place]) == (key in places)
        keys[place], marks[place] = key, 1
        places[int(key)] = place
    assert len(set(places.values())) == len(places)
    assert {key: int(place_of(key, keys, marks)) for key in places} == places
