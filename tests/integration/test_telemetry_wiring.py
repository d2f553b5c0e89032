"""Every telemetry record's wiring, from where its field is emitted to where it is seen.

For each record a value that occurs nowhere else is handed to the real emitter, goes through the
codec, the store, the reader and the aggregator to its place in the snapshot, and must then stand on
its widget after its label.
"""

import importlib
import re
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from capsule_files import write_empty_capsule
from wiring_cases import CASES, HOSTS, OP, ORDINARY, ORDINARY_WATCHED, SLOTS, STARTED, Case

from esper.karn.sanctum.decisions.decision_panels import DecisionPanel
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.heads.incident_panel import IncidentPanel
from esper.karn.sanctum.hosts.host_panels import HostPanel
from esper.karn.store.run_files.console_tail import ConsoleTail
from esper.karn.store.run_store import RunWriter
from esper.karn.text.palette import DARK
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.leyline.quantities import CAUSAL_ORDER
from esper.leyline.records import RECORDS
from esper.leyline.telemetry import (
    UpdateFigures,
)
from esper.recording.run_recorder import Description, RunRecorder
from esper.simic.agent.figures import UpdateResult
from esper.simic.telemetry.emitters import (
    emit_decisions,
    emit_episodes,
    emit_ppo_update_event,
    emit_step,
    read_decision,
)
from esper.simic.telemetry.nonfinite import HEAD_QUANTITIES, SHARED_QUANTITIES
from esper.tamiyo.acting import Decision, active_heads


def update_result(payloads: Any, changes: dict[str, Any]) -> UpdateResult:
    """Return the result of a healthy update with changes, as the agent would give it."""
    healthy = payloads.update()
    fields = {name: getattr(healthy, name) for name in UpdateFigures.__struct_fields__}
    changes = dict(changes)
    for name, value in changes.items():
        if name == "head_nonfinite":
            changes[name] = [payloads.sighting(**seen) for seen in value]
    return UpdateResult(UpdateFigures(**(fields | changes)))


def decision(changes: dict[str, dict[Any, float]]) -> Decision:
    """Return a sure decision to germinate, with changes for the second host."""
    heads, total = len(HEAD_NAMES), sum(HEAD_SIZES)
    actions = torch.zeros(HOSTS, heads, dtype=torch.int64)
    actions[:, OP] = Op.GERMINATE
    made = Decision(
        actions=actions,
        mask=torch.ones(HOSTS, total, dtype=torch.bool),
        active=active_heads(actions[:, OP]),
        log_probs=torch.zeros(HOSTS, heads),
        choice_log_probs=torch.full((HOSTS, total), 0.125).log(),
        values=torch.zeros(HOSTS),
        state=(torch.zeros(1, HOSTS, 1), torch.zeros(1, HOSTS, 1)),
        logits=torch.zeros(HOSTS, total),
        trunk=torch.zeros(HOSTS, 1),
    )
    for name, values in changes.items():
        for place, value in values.items():
            getattr(made, name)[1][place] = value
    return made


def emit_everything(writer: RunWriter, payloads: Any, case: Case) -> None:
    """Emit a small run by the real emitters."""
    writer.emit(payloads.start(**case.start))
    info = {
        "accuracy": np.full(HOSTS, 0.25),
        "loss": np.full(HOSTS, 2.0),
        "parameters": np.full(HOSTS, 858),
        "stage": np.zeros((HOSTS, SLOTS), np.int64),
        "alpha": np.zeros((HOSTS, SLOTS)),
        "blueprint": np.full((HOSTS, SLOTS), -1),
        "reward_terms": {"potential": np.zeros(HOSTS)},
        "training_samples": 373_000,
        "transitions": [],
        "score": np.array(case.scores),
        "final_accuracy": np.full(HOSTS, 0.5),
        "fossilized": np.zeros(HOSTS, np.int64),
    }
    for step in (1, 2):
        emit_decisions(writer, read_decision(decision(case.decided)), update=case.number, step=step)
        emit_step(
            writer,
            info | case.step,
            np.full(HOSTS, case.reward),
            update=case.number,
            step=step,
            first_episode=case.first_episode,
            seconds=case.seconds,
        )
    emit_ppo_update_event(
        writer,
        update_result(payloads, case.update),
        update=case.number,
        episodes_done=2,
        rollout_seconds=1.0,
        update_seconds=0.1,
        samples_per_second=1_000.0,
        hosts_seconds=case.hosts_seconds,
    )
    emit_episodes(writer, info, [1.0, 2.0], update=case.number, first_episode=case.first_episode)
    if case.also is not None:
        case.also(writer)


@pytest.fixture
def look_at(tmp_path, payloads):
    """A function that makes a run of a case and returns a view of it."""
    made = []

    def looked(case: Case) -> View:
        run = tmp_path / str(len(made))
        made.append(run)
        if case.watched is None:
            run.mkdir()
            with RunWriter(run) as writer:
                emit_everything(writer, payloads, case)
        else:
            described = Description("watched", case.library, heads=case.heads)
            recorder = RunRecorder(described, run)
            case.watched(recorder)
            recorder.ended("finished", "")
            run = recorder.directory
        for number in case.capsules:
            write_empty_capsule(run, number, 1)
        with closing(sqlite3.connect(run / "run.sqlite")) as store:
            # One event a second, so that the shown times are known.
            store.execute("UPDATE events SET time = 1000.0 + id")
            store.execute("UPDATE heartbeat SET process_start_time = 1000.0")
            if case.afterwards:
                store.execute(case.afterwards)
            store.commit()
        (run / "console.log").write_text(case.printed)
        frame = RunFollower(run).catch_up()
        assert frame.completeness.unreadable is None
        return View(
            status=frame.status,
            verdict=master_verdict(frame.snapshot, frame.status),
            now=STARTED + case.seconds_later,
            snapshot=frame.snapshot,
            console=ConsoleTail(run).lines(),
        )

    return looked


def found_at(snapshot: Any, path: str, at: str | tuple[int, ...]) -> Any:
    """Return what stands at a record's path; `at` are the indices for its `[…]`, or a key."""
    indices = list(at) if isinstance(at, tuple) else []
    value = snapshot
    for name, is_indexed in re.findall(r"(\w+)(\[…\])?", path):
        value = getattr(value, name)
        if is_indexed:
            value = value[indices.pop(0)]
    return value[at] if isinstance(at, str) else value


def drawn(widget: str, view: View, case: Case) -> str:
    """Return the text that a widget shows of a view."""
    module, name = widget.split(":")
    panel = getattr(importlib.import_module(module), name)()
    if isinstance(panel, ChoicePanel):  # of which one may choose one
        return "\n".join(line.plain for line in panel.rows(view, case.width, DARK))
    if isinstance(panel, IncidentPanel) and view.snapshot.incidents:
        panel.choose(view.snapshot.incidents[-1])
    if isinstance(panel, (HostPanel, DecisionPanel)):
        panel.choose(1)  # the second host
    return str(panel.draw(view, case.width, case.height, DARK).plain)


def looked_up(place: str) -> Any:
    module, path = place.split(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def proofs() -> list[Any]:
    """Return each record with each of its cases."""
    pairs = []
    for record in RECORDS:
        cases = CASES.get(record.id, ())
        cases = cases if isinstance(cases, tuple) else (cases,)
        for number, case in enumerate(cases, start=1):
            name = record.id if len(cases) == 1 else f"{record.id}-{number}"
            pairs.append(pytest.param(record, case, id=name))
    return pairs


def test_every_record_has_its_case():
    assert sorted(CASES) == [record.id for record in RECORDS]


@pytest.mark.parametrize(("record", "case"), proofs())
def test_a_field_goes_from_its_emitter_to_its_widget(record, case, look_at):
    wiring = record.wiring
    view = look_at(case)

    holder = view if wiring.holder == "View" else view.snapshot
    value = case.read(found_at(holder, wiring.snapshot, case.at))
    assert value == (pytest.approx(case.value) if isinstance(case.value, float) else case.value)
    shown = drawn(wiring.widget, view, case)
    assert wiring.label in shown
    assert case.shown in shown
    ordinary = ORDINARY if case.watched is None else ORDINARY_WATCHED
    assert case.shown not in drawn(wiring.widget, look_at(ordinary), case)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_every_place_that_a_record_names_is_there(record):
    wiring = record.wiring
    for place in (wiring.source, wiring.emission, wiring.aggregation, wiring.widget):
        assert callable(looked_up(place)), place
    if not wiring.payload:
        assert wiring.holder == "View"  # what comes from the store comes in an event
        return
    event, name = wiring.payload.split(".")
    struct = getattr(importlib.import_module("esper.leyline.telemetry"), event)
    assert name in struct.__struct_fields__


def test_everything_that_is_watched_has_its_place_in_the_causal_order():
    assert set(CAUSAL_ORDER) == {*HEAD_QUANTITIES, *SHARED_QUANTITIES}
