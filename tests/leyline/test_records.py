"""The records: complete, found by their id, and true to the facts of TELE-302 and TELE-303."""

import dataclasses

import pytest

from esper.karn.sanctum import schema
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.records import (
    HEAD_INF_LATCH,
    HEAD_NAN_LATCH,
    RECORDS,
    UnknownRecordError,
    find_record,
    record_of,
)

#: What of the snapshot is not telemetry: what it is filed under, and histories of other fields.
NOT_TELEMETRY = {
    "run",  # recorded by their parts, as the next ones
    "tamiyo",
    "machine",
    "training",
    "interventions",
    "hosts",
    "last_event_id",
    "run.run_id",
    "run.reason",  # part of the phase's sentence
    "run.steps",
    "run.step",
    "run.progress",  # the episodes done, and those under way
    "run.last_event_at",
    "run.pid",  # part of the status
    "run.process_start_time",
    "run.finished_at",
    "run.heads",
    "run.slots",
    "run.blueprints",
    "run.checkpoint",
    "run.last_monitor_failure",  # what the newest of the counted failures was
    "tamiyo.figures",  # recorded by their parts
    "tamiyo.head_history",
    "training.figures",  # recorded by their parts
    "hosts[…].host",
    "hosts[…].episode",
    "hosts[…].slots",  # recorded by their parts
    "hosts[…].accuracy_history",
    "hosts[…].loss_history",
    "hosts[…].reward_history",
    "hosts[…].reward_terms_history",
    "hosts[…].parameters_history",
    "hosts[…].slot_history",
    "decisions[…].host",
    "decisions[…].update",
    "decisions[…].step",
    "decisions[…].heads",  # recorded by their parts
    "decisions[…].heads[…].head",
    "incidents[…].update",  # recorded as the list of incidents
    "incidents[…].number",
    "incidents[…].path",
    "incidents[…].reason",
    "incidents[…].no_origin",  # shown where there is no origin
    "incidents[…].why_not_repeated",  # shown where a replay is not offered
    "incidents[…].phase",  # by these, incidents of several ranks are recognised as one
    "incidents[…].minibatch",
    "incidents[…].is_spread",
    "incidents[…].rank",  # by which the stores of ranks are joined
    "incidents[…].also_in",
}


def shown_paths():
    parts = {
        "run": schema.RunState,
        "machine": schema.MachineState,
        "tamiyo": schema.TamiyoState,
        "training": schema.TrainingState,
        "interventions": schema.InterventionState,
        "incidents[…]": schema.IncidentState,
        "hosts[…]": schema.HostState,
        "hosts[…].slots[…]": schema.SlotState,
        "decisions[…]": schema.DecisionState,
        "decisions[…].heads[…]": schema.HeadDecision,
    }
    lists = {field.name for field in dataclasses.fields(schema.SanctumSnapshot)}
    lists |= {figure.snapshot_path for figure in HEAD_FIGURES}
    lists |= {
        f"training.{name}"
        for name, attribute in vars(schema.TrainingState).items()
        if isinstance(attribute, property)
    }
    return lists | {
        f"{prefix}.{field.name}"
        for prefix, state in parts.items()
        for field in dataclasses.fields(state)
        if not (prefix == "training" and field.name.endswith("_history"))
    }


def test_every_field_of_the_snapshot_has_its_record_and_every_record_its_field():
    recorded = {
        record.wiring.snapshot for record in RECORDS if record.wiring.holder == "SanctumSnapshot"
    }

    assert recorded == shown_paths() - NOT_TELEMETRY


def test_ids_are_unique_and_in_order():
    ids = [record.id for record in RECORDS]

    assert ids == sorted(set(ids))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_a_record_says_all_that_it_must(record):
    for name in ("name", "category", "question", "when", "type", "unit", "range", "default"):
        assert getattr(record, name), name
    assert record.question.endswith("?")
    assert record.meaning.endswith(".")
    assert record.priority in ("P0", "P1", "P2")
    assert set(record.audience) <= {"operator", "developer", "researcher", "automation"}
    known = {other.id for other in RECORDS}
    assert set(record.companions) <= known - {record.id}
    assert record.type.startswith("dict") == bool(record.keys)


def test_a_record_is_found_by_its_id_however_it_is_written():
    for reference in ("TELE-303", "tele-303", "303", " 303 "):
        assert find_record(reference) is HEAD_INF_LATCH


def test_an_unknown_id_is_one_sentence_that_says_what_there_is():
    with pytest.raises(UnknownRecordError, match=r"TELE-999.*TELE-101 to TELE-607") as caught:
        find_record("TELE-999")
    assert "\n" not in str(caught.value)


def test_the_head_latches_are_as_the_facts_have_it():
    assert (HEAD_NAN_LATCH.id, HEAD_INF_LATCH.id) == ("TELE-302", "TELE-303")
    for record, field in ((HEAD_NAN_LATCH, "head_nan"), (HEAD_INF_LATCH, "head_inf")):
        assert (record.category, record.priority) == ("gradient", "P0")
        assert record.type == "dict[str, bool]"
        assert record.default == "{head: False for head in HEAD_NAMES}"
        assert record.thresholds.warning == "none"
        assert record.thresholds.critical == "lit"
        wiring = record.wiring
        assert wiring.source == "esper.simic.agent.ppo:PPOAgent._update"
        assert wiring.emission == "esper.simic.telemetry.emitters:emit_ppo_update_event"
        assert wiring.payload == f"PPOUpdatePayload.{field}_detected"
        assert wiring.aggregation.endswith("SanctumAggregator._handle_ppo_update")
        assert wiring.snapshot == f"tamiyo.{field}_latch"
        assert wiring.widget.endswith("tamiyo_brain.action_heads_panel:ActionHeadsPanel")
    assert "TELE-302" in HEAD_INF_LATCH.companions
    assert "TELE-303" in HEAD_NAN_LATCH.companions


def test_a_record_is_found_by_what_it_is_about():
    assert record_of("tamiyo.head_inf_latch") is HEAD_INF_LATCH
    with pytest.raises(UnknownRecordError, match=r"run\.pid"):
        record_of("run.pid")
