"""The report of `esper health`: exit code, text and JSON."""

import json

import pytest
from capsule_files import write_empty_capsule
from printed import Printed

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.karn.store.run_store import RunStoreError, RunWriter, create_run
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import IncidentRecorded, InterventionTaken


@pytest.fixture
def healthy_run(tmp_path, payloads):
    """A run in which nothing went wrong."""
    run = create_run(tmp_path / "healthy", "fine")
    with RunWriter(run) as writer:
        for payload in (payloads.start(), payloads.update(), payloads.finish()):
            writer.emit(payload)
    return run


def test_health_as_json_has_the_documented_keys(finished_run):
    console = Printed(width=20)
    code = print_health(finished_run.parent, as_json=True, console=console)

    assert code == 1
    assert json.loads(console.text) == {
        "run": finished_run.name,
        "status": "FINISHED",
        "library": None,
        "stalled": None,
        "wal_bytes": 0,
        "monitor_failures": {"count": 0, "last": None},
        "planted": False,
        "head_inf_latch": {head: head == "op" for head in HEAD_NAMES},
        "head_nan_latch": dict.fromkeys(HEAD_NAMES, False),
        "group_inf_latch": {"shared": False, "hosts": False},
        "group_nan_latch": {"shared": False, "hosts": False},
        "first": [
            {
                "head": "op",
                "kind": "+inf",
                "quantity": "logits",
                "update": 2,
                "phase": "update",
                "epoch": 1,
                "minibatch": 1,
                "host": None,
                "step": None,
                "part": None,
                "reproduced": True,
                "planted": False,
                "rank": None,
            }
        ],
        "evidence": [
            {
                "head": "op",
                "quantity": "logits",
                "kind": "+inf",
                "first": {
                    "update": 2,
                    "phase": "update",
                    "epoch": 1,
                    "minibatch": 1,
                    "host": None,
                    "step": None,
                    "other_hosts": [],
                    "part": None,
                    "rank": None,
                    "other_ranks": [],
                },
                "last": {
                    "update": 2,
                    "phase": "update",
                    "epoch": 1,
                    "minibatch": 1,
                    "part": None,
                },
                "updates": 1,
                "minibatches": 1,
                "steps": None,
                "reproduced": True,
                "planted": False,
                "active": True,
            }
        ],
        "interventions": {"repeat": 0, "skip": 0, "rollback": 0, "halt": 0},
        "incidents": {"kept": 0, "not_kept": 0},
        "ranks": None,
    }


def test_health_as_json_has_null_for_what_was_not_reported(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.update(3, head_nan_detected={"op": True}))
    console = Printed()
    print_health(run.parent, as_json=True, console=console)

    (row,) = json.loads(console.text)["evidence"]
    for place in (row["first"], row["last"]):
        assert (place["update"], place["epoch"], place["minibatch"]) == (3, None, None)
    assert (row["updates"], row["minibatches"]) == (1, None)


@pytest.mark.parametrize(
    ("fail_on", "code"), [("inf,nan", 1), ("inf", 1), ("nan", 0), (" NaN , Inf", 1), ("", 0)]
)
def test_the_exit_code_follows_the_latches_that_were_named(finished_run, fail_on, code):
    run_dir, reference = finished_run.parent, finished_run.name
    assert print_health(run_dir, reference, fail_on=fail_on, console=Printed()) == code


def test_a_healthy_run_is_0(healthy_run):
    console = Printed()

    assert print_health(healthy_run.parent, console=console) == 0
    assert "HEALTHY" in console.text
    assert "interventions: none" in console.lines
    assert "incidents: none" in console.lines
    assert "loss scale" not in console.text
    assert console.text.count("●") == 1


@pytest.mark.parametrize("group", ["shared", "hosts"])
@pytest.mark.parametrize(("kind", "fail_on"), [("nan", "nan"), ("-inf", "inf")])
def test_the_light_of_a_group_counts(run, payloads, kind, fail_on, group):
    with RunWriter(run) as writer:
        seen = payloads.sighting(head=group, quantity="loss", kind=kind)
        writer.emit(payloads.update(1, head_nonfinite=[seen]))

    assert print_health(run.parent, fail_on=fail_on, console=Printed()) == 1
    other = "nan" if fail_on == "inf" else "inf"
    assert print_health(run.parent, fail_on=other, console=Printed()) == 0


def test_health_for_people_says_what_is_lit_and_why(finished_run):
    console = Printed()
    print_health(finished_run.parent, console=console)

    assert finished_run.name in console.lines[0]
    assert "FINISHED" in console.lines[0]
    assert "● CRITICAL" in console.text
    assert "op went Inf in logits, update 2" in console.text
    op, evidence = (line for line in console.lines if line.startswith("op"))
    assert op.split() == ["op", "●", "now", "○"]
    (slot,) = (line for line in console.lines if line.startswith("slot"))
    assert slot.split() == ["slot", "○", "○"]
    assert evidence.split() == ["op", "Inf", "in", "logits", "1", "1", "2/1/1", "2/1/1", "now"]


def test_health_says_phase_host_step_tensor_and_what_was_not_reproduced(passing_run):
    console = Printed(width=80)
    assert print_health(passing_run.parent, console=console) == 1

    assert "  the hosts went NaN in loss, while training host 1, step 5, update 3" in console.lines
    (hosts, evidence) = (line.split() for line in console.lines if line.startswith("hosts"))
    assert hosts == ["hosts", "○", "●"]
    assert evidence == ["hosts", "NaN", "in", "loss", "1", "–", "3", "3"]
    details = console.lines[console.lines.index(next(filter(_is_evidence, console.lines))) + 1 :]
    assert details[1::2] == [
        "  while training host 1, step 5, in 1 step",
        "  lstm.bias, before the update",
        "  not reproduced",
        "  while acting, host 2, step 7, in 3 steps",
    ]
    assert "0/0" not in console.text
    assert "interventions: 1 update repeated (finite at the second try)" in console.lines
    assert "skipped" not in console.text.replace("nothing skipped", "")
    assert max(map(len, console.lines)) <= 80


def _is_evidence(line):
    return line.startswith("head") and "seen" in line


def test_health_as_json_says_phase_host_step_tensor_and_what_was_not_reproduced(passing_run):
    console = Printed()
    print_health(passing_run.parent, as_json=True, console=console)
    report = json.loads(console.text)

    assert report["group_nan_latch"] == {"shared": True, "hosts": True}
    assert report["interventions"] == {"repeat": 1, "skip": 0, "rollback": 0, "halt": 0}
    host, given, transient, acting = report["evidence"]
    assert (host["first"]["phase"], host["first"]["host"], host["first"]["step"]) == ("hosts", 0, 5)
    assert (given["first"]["phase"], given["last"]["part"]) == ("given", "lstm.bias")
    assert [row["reproduced"] for row in report["evidence"]] == [True, True, False, True]
    assert (transient["first"]["epoch"], transient["minibatches"]) == (1, 1)
    assert (acting["first"]["epoch"], acting["minibatches"], acting["steps"]) == (None, None, 3)


@pytest.fixture
def drilled_run(run, payloads):
    """A run with a drill in op, whose Inf became NaN, and a NaN of slot that no drill planted."""
    drill = [
        payloads.sighting(planted=True),
        payloads.sighting(kind="nan", quantity="ratio", planted=True),
    ]
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1, head_nonfinite=drill))
        writer.emit(payloads.finish(update=1))
    return run


def test_drills_are_marked_in_health_and_runs(drilled_run, payloads):
    def printed(report, **options):
        console = Printed()
        report(drilled_run.parent, console=console, **options)
        return console

    health = printed(print_health)
    assert "  op went Inf in logits, update 1, planted by a drill" in health.lines
    assert "  NaN seen in op (drill)" in health.lines
    (light,) = (line for line in health.lines if line.split()[:3] == ["op", "●", "drill"])
    assert light.split() == ["op", "●", "drill", "now", "●", "drill", "now"]
    assert health.lines.count("  planted by a drill") == 2
    report = json.loads(printed(print_health, as_json=True).text)
    assert report["planted"] is True
    assert [seen["planted"] for seen in (*report["first"], *report["evidence"])] == [True] * 4
    assert printed(print_runs).lines[1].endswith("● Inf op (drill)  ● NaN op (drill)")
    assert print_health(drilled_run.parent, console=Printed()) == 1  # a drill proves the alarm

    # A fault that no drill planted is none, and takes the mark off a light that it shares.
    with RunWriter(drilled_run) as writer:
        writer.emit(payloads.start(resumed_from_update=1))
        writer.emit(payloads.broken_update(2, "op", "nan", "entropy"))
        writer.emit(payloads.finish(update=2))
    health = printed(print_health)
    (light,) = (line for line in health.lines if line.split()[:3] == ["op", "●", "drill"])
    assert light.split() == ["op", "●", "drill", "●", "now"]
    report = json.loads(printed(print_health, as_json=True).text)
    assert report["planted"] is False
    assert [row["planted"] for row in report["evidence"]] == [True, True, False]
    assert printed(print_runs).lines[1].endswith("● Inf op (drill)  ● NaN op")


def test_a_run_without_lights_is_not_a_drill(healthy_run):
    console = Printed()
    print_health(healthy_run.parent, as_json=True, console=console)
    assert json.loads(console.text)["planted"] is False


@pytest.fixture
def long_troubled_run(run, payloads):
    """A run under fp16 that had trouble of many kinds, for ever so long, and was halted."""
    sources = [
        ("alpha_target", "old_log_prob", "-inf"),
        ("alpha_target", "old_log_prob", "nan"),
        ("shared", "recurrent_state", "nan"),
    ]
    seen = [
        payloads.sighting(
            head=head, quantity=quantity, kind=kind, count=16, last_epoch=4, last_minibatch=4
        )
        for head, quantity, kind in sources
    ]
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in (9_998, 9_999):
            writer.emit(
                payloads.update(
                    update, head_nonfinite=seen, minibatches_rescaled=2, loss_scale=32_768.0
                )
            )
        for action in ("skip", "skip", "rollback", "halt"):
            writer.emit(InterventionTaken(update=9_998, action=action, cause="", reason=""))
        for number, path in enumerate(("incidents/0001", ""), start=1):
            writer.emit(
                IncidentRecorded(update=9_998, number=number, path=path, size=1, reason="full")
            )
        writer.emit(payloads.finish("halted", reason="5 rollbacks in a row did not help"))
    write_empty_capsule(run, 1, 9_998)
    return run


def test_the_evidence_fits_into_80_columns(long_troubled_run):
    console = Printed(width=80)
    print_health(long_troubled_run.parent, console=console)

    # A command is not broken over lines, so that it can be pasted.
    assert max(len(line) for line in console.lines if "esper replay" not in line) <= 80
    rows = [line.split() for line in console.lines if line.endswith("9998/1/1  9999/4/4  now")]
    assert sorted(row[:6] for row in rows) == [
        ["alpha_target", "-Inf", "in", "old_log_prob", "2", "32"],
        ["alpha_target", "NaN", "in", "old_log_prob", "2", "32"],
        ["shared", "NaN", "in", "recurrent_state", "2", "32"],
    ]


def test_interventions_are_counted_in_the_report(long_troubled_run):
    console = Printed(width=80)
    print_health(long_troubled_run.parent, console=console)

    assert "interventions: 2 updates skipped, 1 rolled back, 1 halt" in console.lines
    assert "incidents: 2, of which 1 without a capsule" in console.lines
    assert "loss scale 32768, scaler skipped 4 minibatches" in console.lines
    assert "HALTED" in console.lines[0]
    assert console.text.count("halted by non-finite values: 5 rollbacks in a row did not help") == 1


def test_the_health_of_a_run_without_events_is_unknown(run):
    with pytest.raises(RunStoreError, match="has no events yet"):
        print_health(run.parent, console=Printed())
