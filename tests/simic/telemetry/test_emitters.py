"""Emitters: all of a decision is emitted, with one transfer from the device."""

import struct

import pytest
import torch

from esper.leyline.heads import HEAD_SIZES, Op
from esper.leyline.telemetry import DecisionsTaken, decode_payload, encode_payload
from esper.simic.telemetry.emitters import emit_decisions, read_decision
from esper.tamiyo.acting import act
from esper.tamiyo.policy import RecurrentPolicy

HOSTS = 3


class Heard(list):
    """A writer that keeps what was emitted."""

    def emit(self, payload, *, durable=False):
        self.append(decode_payload("decisions_taken", encode_payload(payload)))


def decided(poison=None):
    """Return a decision for three hosts in which the first slot is never legal."""
    random = torch.Generator().manual_seed(3)
    policy = RecurrentPolicy(4, feature_size=8, lstm_size=8)
    if poison is not None:
        with torch.no_grad():
            policy.heads.bias[-1] = poison
    mask = torch.ones(HOSTS, sum(HEAD_SIZES), dtype=torch.bool)
    slots = torch.ones(HOSTS, len(Op), HEAD_SIZES[0], dtype=torch.bool)
    slots[..., 0] = False
    observations = torch.randn(HOSTS, 4, generator=random)
    with torch.no_grad():
        return act(policy, observations, mask, slots, policy.initial_state(HOSTS), random)


def by_head(packed):
    """Unpack a distribution the slow and obvious way."""
    heads, offset = [], 0
    for size in HEAD_SIZES:
        heads.append(struct.unpack_from(f"<{size}f", packed, offset))
        offset += 4 * size
    assert offset == len(packed)
    return heads


def test_every_choice_of_every_head_is_emitted_with_its_probability():
    decision, heard = decided(), Heard()

    emit_decisions(heard, read_decision(decision), update=5, step=7)

    (payload,) = heard
    assert isinstance(payload, DecisionsTaken)
    assert (payload.update, payload.step) == (5, 7)
    assert payload.actions == decision.actions.tolist()
    assert payload.values == decision.values.tolist()
    assert len(payload.distributions) == HOSTS
    for host, packed in enumerate(payload.distributions):
        heads = by_head(packed)
        assert heads[0][0] == 0.0  # illegal
        for head, probabilities in enumerate(heads):
            assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
            taken = payload.actions[host][head]
            assert probabilities[taken] == payload.probabilities[host][head]


def test_nonfinite_probabilities_are_emitted_unchanged():
    heard = Heard()

    emit_decisions(heard, read_decision(decided(poison=torch.inf)), update=1, step=1)

    for packed in heard[0].distributions:
        *others, op = by_head(packed)
        assert all(value != value for value in op)
        assert all(value == value for head in others for value in head)


def test_a_decision_takes_one_transfer(monkeypatch):
    decision, transfers = decided(), []
    to_host = torch.Tensor.cpu

    def counted(tensor):
        transfers.append(tensor.shape)
        return to_host(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    for name in ("tolist", "item", "numpy"):
        before = getattr(torch.Tensor, name)

        def checked(tensor, before=before, name=name):
            assert transfers, f"{name} before the transfer"
            return before(tensor)

        monkeypatch.setattr(torch.Tensor, name, checked)
    emit_decisions(Heard(), read_decision(decision), update=1, step=1)

    assert len(transfers) == 1
