"""The snapshot: what it holds before anything was measured."""

import dataclasses

import pytest

from esper.karn.sanctum.schema import SanctumSnapshot, TamiyoState
from esper.leyline.heads import HEAD_NAMES


def test_tamiyo_state_has_nan_inf_latch_fields():
    state = TamiyoState()

    assert state.head_inf_latch == dict.fromkeys(HEAD_NAMES, False)
    assert state.head_nan_latch == dict.fromkeys(HEAD_NAMES, False)
    assert SanctumSnapshot().tamiyo == state


def test_lights_of_two_states_are_not_the_same_object():
    first, second = TamiyoState(), TamiyoState()
    first.head_inf_latch["op"] = True

    assert not second.head_inf_latch["op"]
    assert not first.head_nan_latch["op"]


def test_a_snapshot_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SanctumSnapshot().last_event_id = 3
