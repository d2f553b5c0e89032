"""Per-head figures: described once, stored under their old keys, shown under distinct labels."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from esper.leyline.head_figures import CHARTED_FIGURES, HEAD_FIGURES, JUDGED_FIGURES, HeadFigures
from esper.leyline.records import RECORDS, record_of
from esper.leyline.telemetry import (
    PPOUpdatePayload,
    UpdateFigures,
    decode_payload,
    encode_payload,
)

#: Run that was written before figures were a struct.
OLD_RUN = Path(__file__).parents[1] / "support" / "data" / "format-2-run"
#: Keys of a stored update at that time.
OLD_KEYS = {
    *("update", "episodes_done", "minibatches", "minibatches_skipped", "minibatches_stopped"),
    *("policy_loss", "value_loss", "entropy", "approximate_kl", "clip_fraction"),
    *("explained_variance", "gradient_norm", "learning_rate", "rollout_seconds"),
    *("update_seconds", "samples_per_second", "head_inf_detected", "head_nan_detected"),
    *("head_nonfinite", "head_entropy", "head_gradient_norm", "head_ratio_max"),
    *("head_clip_fraction", "head_kl", "head_log_prob_min", "head_log_prob_max"),
    *("head_active_fraction", "loss_scale", "minibatches_rescaled", "hosts_seconds"),
}


def test_every_field_has_a_description_of_its_own():
    assert [figure.field for figure in HEAD_FIGURES] == list(HeadFigures.__struct_fields__)
    for attribute in ("number", "name", "label", "chart_label"):
        values = [getattr(figure, attribute) for figure in HEAD_FIGURES]
        assert len(set(values)) == len(values), attribute
    assert all(figure.field.startswith("head_") for figure in HEAD_FIGURES)


def test_ranks_order_charts_and_reasons():
    assert [figure.label for figure in CHARTED_FIGURES] == [
        "Entropy",
        "Ratio max",
        "Grad norm",
        "Clip",
    ]
    assert JUDGED_FIGURES[0].field == "head_ratio_max"
    assert set(JUDGED_FIGURES) == set(HEAD_FIGURES)


@pytest.mark.parametrize("figure", HEAD_FIGURES, ids=lambda figure: figure.field)
def test_every_figure_has_a_telemetry_record_with_its_description(figure):
    record = record_of(figure.snapshot_path)

    assert record in RECORDS
    assert (record.id, record.name) == (f"TELE-{figure.number}", figure.name)
    assert (record.meaning, record.thresholds) == (figure.meaning, figure.thresholds)
    assert record.wiring.payload == f"PPOUpdatePayload.{figure.field}"
    assert record.wiring.label == figure.label


def test_stored_updates_keep_their_keys(payloads):
    stored = msgspec.msgpack.decode(encode_payload(payloads.update(3)))

    assert stored.keys() >= OLD_KEYS
    assert issubclass(PPOUpdatePayload, UpdateFigures)
    assert issubclass(UpdateFigures, HeadFigures)


def test_an_update_of_an_old_store_is_read_and_written_with_the_same_values():
    with closing(sqlite3.connect(f"file:{OLD_RUN / 'run.sqlite'}?immutable=1", uri=True)) as store:
        rows = store.execute("SELECT payload FROM events WHERE kind = 'ppo_update'").fetchall()
    assert rows
    for (data,) in rows:
        payload = decode_payload("ppo_update", data)
        old, new = msgspec.msgpack.decode(data), msgspec.msgpack.decode(encode_payload(payload))
        assert old.keys() <= OLD_KEYS
        # Sightings have gained fields since, with defaults.
        same = old.keys() - {"head_nonfinite"}
        assert {key: repr(new[key]) for key in same} == {key: repr(old[key]) for key in same}
