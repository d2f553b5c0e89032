"""The data cursor: every host reads every example once per pass, in its own order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.hosts.minibatches import (
    MinibatchOrder,
    SliceSizeError,
    draw,
    fitting_batch,
    new_order,
    restart,
)


def fresh(hosts: int, samples: int, batch: int, batches: int) -> MinibatchOrder:
    order = new_order(hosts, samples, batch, batches)
    restart(order, np.arange(hosts), np.arange(hosts) + 100)
    return order


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 12), st.integers(1, 6))
def test_each_pass_gives_every_usable_sample_once(
    batch: int, batches: int, extra: int, slices: int
) -> None:
    samples = batch + extra
    order = fresh(2, samples, batch, batches)
    usable = samples // batch * batch
    drawn = np.concatenate([draw(order, batch * batches) for _ in range(slices * batches)], axis=1)
    for host in range(2):
        for start in range(0, drawn.shape[1] - usable + 1, usable):
            one_pass = drawn[host, start : start + usable]
            assert len(set(one_pass.tolist())) == usable
            assert ((one_pass >= 0) & (one_pass < samples)).all()


def test_orders_differ_between_hosts_and_passes() -> None:
    order = fresh(2, 40, 10, 4)
    first, second = draw(order, 40), draw(order, 40)
    assert (first[0] != first[1]).any()
    assert (first[0] != second[0]).any()


def test_a_restarted_host_sees_the_same_data_again_and_the_others_continue() -> None:
    order = fresh(3, 40, 10, 2)
    first = draw(order, 20)
    restart(order, np.array([1]), np.array([101]))
    second = draw(order, 20)
    np.testing.assert_array_equal(second[1], first[1])
    assert set(second[0]) == set(range(40)) - set(first[0])


def test_where_slices_end_makes_no_difference() -> None:
    one_by_one, all_at_once = fresh(2, 25, 10, 1), fresh(2, 25, 10, 12)
    pieces = [draw(one_by_one, 10) for _ in range(24)]
    wholes = [draw(all_at_once, 120) for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), np.concatenate(wholes, axis=1))


def test_a_minibatch_larger_than_the_data_spans_several_passes() -> None:
    order = fresh(2, 7, 10, 4)
    drawn = np.concatenate([draw(order, 40) for _ in range(7)], axis=1)
    for host in range(2):
        for one_pass in drawn[host].reshape(-1, 7):
            assert sorted(one_pass) == list(range(7))


def test_a_training_part_without_samples_is_refused() -> None:
    with pytest.raises(SliceSizeError, match="has no samples"):
        new_order(1, 0, 10, 1)


@pytest.mark.parametrize(
    ("samples", "batch"), [(3200, 50), (200, 50), (67, 16), (29, 8), (5, 5), (1, 1)]
)
def test_minibatches_of_few_samples_are_small(samples: int, batch: int) -> None:
    assert fitting_batch(samples, 50) == batch
