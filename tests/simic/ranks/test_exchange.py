"""What ranks exchange: rows of hosts, and sightings."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esper.leyline.telemetry import HOSTS, NonfiniteSighting
from esper.simic.ranks.collectives import share_of
from esper.simic.ranks.host_rows import packed, unpacked
from esper.simic.ranks.sighting_exchange import SLAB_BYTES, decoded, encoded, key_of, merged

TYPES = st.sampled_from([np.bool_, np.float32, np.float64, np.int64])


def array_of(hosts: int) -> Any:
    shapes = arrays.array_shapes(max_dims=3, max_side=4).map(lambda shape: (hosts, *shape[1:]))
    return TYPES.flatmap(lambda kind: arrays.arrays(kind, shapes))


@settings(max_examples=30)
@given(st.integers(1, 5).flatmap(lambda n: st.dictionaries(st.text(), array_of(n), min_size=1)))
def test_rows_come_back_bit_for_bit(given_arrays: dict[str, np.ndarray]) -> None:
    rows = packed(given_arrays)
    for hosts in (len(rows), 1):
        back = unpacked(rows[:hosts], given_arrays)
        assert back.keys() == given_arrays.keys()
        for name, array in given_arrays.items():
            assert back[name].dtype == array.dtype
            assert back[name].tobytes() == array[:hosts].tobytes()


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(1, 9))
def test_every_host_has_one_rank_and_no_rank_waits_for_long(hosts: int, ranks: int) -> None:
    shares = [share_of(hosts, rank, ranks) for rank in range(ranks)]
    counts = shares[0].counts
    assert sum(counts) == hosts
    assert max(counts) - min(counts) <= 1
    own = [range(hosts)[share.own] for share in shares if not share.is_copy]
    assert [host for part in own for host in part] == list(range(hosts))
    assert all(list(range(hosts)[share.own]) == [0] for share in shares if share.is_copy)


def sighting(**changes: Any) -> NonfiniteSighting:
    values = {"head": "op", "quantity": "logits", "kind": "nan", "count": 1}
    return NonfiniteSighting(**{"epoch": 1, "minibatch": 1, **values, **changes})


def test_sightings_come_back_in_a_slab_of_fixed_size() -> None:
    few = [sighting(), sighting(head=HOSTS, phase="hosts", host=3, step=2, part="früh")]
    many = [sighting(head=HOSTS, phase="hosts", host=host) for host in range(1_000)]
    slabs = [encoded(each) for each in ([], few, many)]
    assert {len(slab) for slab in slabs} == {SLAB_BYTES}
    assert decoded(slabs[0]) == []
    assert decoded(slabs[1]) == few
    kept = decoded(slabs[2])
    assert kept == many[: len(kept)]
    assert len(kept) > 64


def test_what_several_ranks_saw_is_one_sighting_with_its_first_place() -> None:
    late = sighting(epoch=2, minibatch=1, last_epoch=2, last_minibatch=1, count=3)
    early = sighting(minibatch=3, last_epoch=1, last_minibatch=3, reproduced=False)
    hosts = [sighting(head=HOSTS, phase="hosts", host=host) for host in (0, 5)]
    (one, *others) = merged([[late, hosts[0]], [early], [hosts[1]]])
    assert (one.epoch, one.minibatch) == (1, 3)
    assert (one.last_epoch, one.last_minibatch) == (2, 1)
    assert one.count == 3
    assert one.reproduced
    assert others == hosts  # each broken host counts


@pytest.mark.parametrize("copies", [1, 2])
@given(st.permutations([sighting(kind=kind) for kind in ("nan", "+inf", "-inf")]))
def test_order_and_duplicates_do_not_matter(
    copies: int, sightings: list[NonfiniteSighting]
) -> None:
    found = merged([sightings, *([sightings[:2]] * copies)])
    assert {key_of(one): one for one in found} == {key_of(one): one for one in sightings}
