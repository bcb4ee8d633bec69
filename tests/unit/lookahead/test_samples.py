"""How much each sample counts in the loss."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.lookahead.samples import loss_divisors, positive_weights, samples_of
from bagpipe_hpc.protocol.plan import BagLists

NAN = np.float32("nan")
NONE, NO_ENDS = np.zeros(0, np.int64), np.zeros(3, np.int64)
NO_BAGS = BagLists(NONE, NO_ENDS, np.zeros(0, np.float32), NO_ENDS, NONE, NO_ENDS)
ENDS = np.array([0, 2, 3])


def batch(labels: object, weights: object = None, groups: object = None) -> Batch:
    values = np.array(labels, np.float32)
    num_samples = len(values)
    return Batch(
        values,
        np.zeros((num_samples, 0), np.float32),
        np.zeros((num_samples, 1), np.int64),
        sample_weights=None if weights is None else np.array(weights, np.float32),
        groups=None if groups is None else np.array(groups, np.int64),
    )


def test_without_weights_samples_with_the_label_are_counted() -> None:
    assert loss_divisors(batch([0, 1, NAN])).tolist() == [2]
    assert loss_divisors(batch([[0, NAN], [1, NAN], [NAN, 3]])).tolist() == [2, 1]


def test_weights_are_added_up_where_the_label_is_there() -> None:
    assert loss_divisors(batch([[0, NAN], [1, 5], [NAN, 3]], [0.5, 2, 4])).tolist() == [2.5, 6]


def test_a_label_that_no_sample_has_divides_by_one() -> None:
    assert loss_divisors(batch([[0, NAN], [1, NAN]])).tolist() == [2, 1]
    assert loss_divisors(batch([1, 0], [0, 0])).tolist() == [1]


def test_samples_with_a_label_of_1_are_weighed() -> None:
    def of(labels: object, weights: object = None) -> list[float]:
        samples = samples_of(batch(labels, weights), NO_BAGS, ENDS, has_plain_labels=False)
        return [float(weight) for weight in positive_weights(samples)]

    assert of([0, 1, 1]) == [2]
    assert of([[0, 1], [1, NAN], [1, 0]], [0.5, 2, 4]) == [6, 0.5]
    assert of([0, NAN, 1], [1, 1, 0]) == [1]


def test_plain_labels_need_no_divisors() -> None:
    samples = samples_of(batch([0, 1, 1]), NO_BAGS, ENDS, has_plain_labels=True)
    assert not len(samples.loss_divisors)
    assert samples.ends_of(samples.groups).tolist() == [0, 0, 0]


def test_weights_and_groups_go_into_the_plan() -> None:
    samples = samples_of(batch([0, 1, 1], [1, 2, 3], [5, 5, -6]), NO_BAGS, ENDS, has_plain_labels=False)
    assert (samples.sample_weights.tolist(), samples.groups.tolist()) == ([1, 2, 3], [5, 5, -6])
    assert samples.loss_divisors.tolist() == [6]
    assert samples.ends_of(samples.groups) is ENDS
    only_groups = samples_of(batch([0, 1, 1], groups=[5, 5, -6]), NO_BAGS, ENDS, has_plain_labels=True)
    assert (len(only_groups.groups), len(only_groups.sample_weights), len(only_groups.loss_divisors)) == (3, 0, 0)
