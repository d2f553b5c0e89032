"""Payloads travel as they are: typed, exact about NaN and Inf, and tolerant of newer writers."""

import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import (
    CheckpointWritten,
    DamagedEventError,
    DecisionsTaken,
    Heartbeat,
    HostsStalled,
    Notice,
    PPOUpdatePayload,
    UnknownPayload,
    decode_payload,
    encode_payload,
    kind_of,
)


def through_the_codec(payload):
    return decode_payload(kind_of(payload), encode_payload(payload))


def bits(value):
    return struct.pack(">d", value)


def test_ppo_update_payload_with_per_head_fields(payloads):
    figures = {
        figure.field: {head: number + index / 10 for index, head in enumerate(HEAD_NAMES)}
        for number, figure in enumerate(HEAD_FIGURES)
    }
    payload = payloads.update(
        3,
        head_inf_detected={head: head == "op" for head in HEAD_NAMES},
        head_nan_detected={head: head in ("op", "slot") for head in HEAD_NAMES},
        head_nonfinite=[payloads.sighting(epoch=2, minibatch=3)],
        **figures,
    )

    received = through_the_codec(payload)

    assert received == payload
    assert [head for head in HEAD_NAMES if received.head_inf_detected[head]] == ["op"]
    assert [head for head in HEAD_NAMES if received.head_nan_detected[head]] == ["slot", "op"]
    for figure in HEAD_FIGURES:
        assert figure.of(received) == figures[figure.field]
    (sighting,) = received.head_nonfinite
    assert (sighting.head, sighting.quantity, sighting.kind) == ("op", "logits", "+inf")
    assert (sighting.epoch, sighting.minibatch) == (2, 3)


def test_every_kind_of_payload_comes_back_equal(payloads):
    for payload in (
        payloads.start(resumed_from_update=4, config={"lr": 0.1, "names": ["a"]}),
        payloads.step(),
        DecisionsTaken(update=1, step=1, actions=[[0] * 8], probabilities=[[0.5] * 8], values=[1]),
        payloads.transition(1),
        payloads.episodes(),
        payloads.update(),
        CheckpointWritten(update=1, path="checkpoints/1.pt", size=10),
        HostsStalled(update=1, pid=2, seconds=20.5, answered=True),
        Heartbeat(pid=1, process_start_time=2.0, events_lost=3),
        Notice(level="info", text="hello"),
        payloads.finish(),
    ):
        assert through_the_codec(payload) == payload


@given(st.floats(allow_nan=True, allow_infinity=True, width=64))
def test_every_float_comes_back_bit_for_bit(value):
    payload = PPOUpdatePayload(
        update=1,
        episodes_done=0,
        minibatches=1,
        minibatches_skipped=0,
        minibatches_stopped=0,
        policy_loss=value,
        value_loss=value,
        entropy=0.0,
        approximate_kl=0.0,
        clip_fraction=0.0,
        explained_variance=0.0,
        gradient_norm=0.0,
        learning_rate=0.0,
        rollout_seconds=0.0,
        update_seconds=0.0,
        samples_per_second=0.0,
        head_inf_detected={},
        head_nan_detected={},
        head_entropy={"op": value},
    )

    received = through_the_codec(payload)

    assert bits(received.policy_loss) == bits(value)
    assert bits(received.head_entropy["op"]) == bits(value)


def test_a_field_of_a_newer_writer_is_ignored(payloads):
    fields = msgspec.to_builtins(payloads.update(2))
    data = msgspec.msgpack.encode(fields | {"colour_of_the_loss": "green"})

    assert decode_payload("ppo_update", data) == payloads.update(2)


def test_a_field_that_an_older_writer_did_not_know_has_its_default(payloads):
    fields = msgspec.to_builtins(payloads.update(2))
    del fields["head_kl"]

    assert decode_payload("ppo_update", msgspec.msgpack.encode(fields)).head_kl == {}


def test_a_kind_that_a_newer_writer_added_is_kept_as_it_came():
    payload = decode_payload("weather", b"\x01\x02")

    assert payload == UnknownPayload(kind="weather", data=b"\x01\x02")
    assert kind_of(payload) == "weather"
    assert encode_payload(payload) == b"\x01\x02"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"not msgpack", b"\x80", b"\xa1\xff"])
def test_damage_is_named(data):
    with pytest.raises(DamagedEventError, match="a ppo_update event is damaged"):
        decode_payload("ppo_update", data)


@given(st.binary(max_size=64), st.integers(min_value=0))
def test_a_flipped_byte_never_escapes_as_another_error(noise, position):
    whole = bytearray(encode_payload(Notice(level="info", text="all is well")))
    whole[position % len(whole) :] = noise
    try:
        payload = decode_payload("notice", bytes(whole))
    except DamagedEventError:
        return
    assert isinstance(payload, Notice)


def test_nan_and_infinity_stay_distinct_after_the_codec(payloads):
    received = through_the_codec(
        payloads.update(head_entropy={"op": math.nan, "slot": math.inf, "tempo": -math.inf})
    )

    assert math.isnan(received.head_entropy["op"])
    assert received.head_entropy["slot"] == math.inf
    assert received.head_entropy["tempo"] == -math.inf
