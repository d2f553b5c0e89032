"""What the verbs print: for people, for pipes and for programs."""

import pytest
from printed import Printed

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.commands.telemetry import print_telemetry
from esper.karn.reports.fail_on import FailOnError
from esper.karn.store.run_store import RunNotFoundError, RunStoreError, RunWriter, create_run
from esper.leyline.records import RECORDS, UnknownRecordError


def test_runs_are_listed_with_whole_ids_however_narrow_the_pipe(tmp_path, payloads):
    names = ("a-run-with-a-name-that-is-long-enough-to-be-cut-off-anywhere", "b")
    for day, name in enumerate(names):
        with RunWriter(create_run(tmp_path, name, now=86_400.0 * day)) as writer:
            writer.emit(payloads.start())
            writer.emit(payloads.broken_update(1, "op", "+inf"))
            writer.emit(payloads.episodes(1))
            writer.emit(payloads.finish("stopped", update=1, episodes_done=2))
    console = Printed(width=20)

    assert print_runs(tmp_path, console=console) == 0
    header, first, second = console.lines
    assert header.split() == ["run", "status", "update", "episodes", "score", "lights"]
    assert first.split()[0].endswith("a-run-with-a-name-that-is-long-enough-to-be-cut-off-anywhere")
    assert second.split()[1:] == ["STOPPED", "1", "2/10", "0.500", "●", "Inf", "op"]


def test_a_run_that_cannot_be_read_still_has_a_line(finished_run):
    bad = create_run(finished_run.parent, "bad", now=0.0)
    (bad / "run.sqlite").write_text("plain text")
    console = Printed()

    assert print_runs(finished_run.parent, console=console) == 0
    assert "not a run store" in console.lines[1]
    assert "FINISHED" in console.lines[2]


def test_an_empty_folder_is_reported_with_the_command_that_starts_a_run(tmp_path):
    console = Printed()

    assert print_runs(tmp_path / "nowhere", console=console) == 0
    assert "No runs" in console.text


def test_a_score_without_a_finite_host_is_named_nan(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.episodes(1, score=[float("nan"), float("inf")]))
    listed, health = Printed(), Printed()
    print_runs(run.parent, console=listed)
    print_health(run.parent, console=health)

    assert listed.lines[1].split()[-2:] == ["NaN", "○"]
    assert health.lines[1].endswith("score NaN")


def test_runs_name_the_groups_that_are_lit(passing_run):
    console = Printed()
    print_runs(passing_run.parent, console=console)

    assert console.lines[1].endswith("● NaN op, shared, hosts")


def test_colour_is_for_terminals_and_not_for_those_who_want_none(finished_run, monkeypatch):
    def printed(**options):
        console = Printed(force_terminal=True, **options)
        print_health(finished_run.parent, console=console)
        return console.text

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;31m" in printed(color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in printed()
    console = Printed()
    print_health(finished_run.parent, console=console)
    assert "\x1b" not in console.text


def test_bad_input_is_an_error_of_its_own_in_one_sentence(finished_run):
    run_dir = finished_run.parent
    with pytest.raises(RunNotFoundError, match="did you mean"):
        print_health(run_dir, "tset", console=Printed())
    with pytest.raises(FailOnError, match=r"inf, nan, stalled, .*, not 'infinity'"):
        print_health(run_dir, fail_on="infinity", console=Printed())
    (finished_run / "run.sqlite").write_text("plain text")
    (finished_run / "latches.jsonl").unlink()
    with pytest.raises(RunStoreError, match="not a run store"):
        print_health(run_dir, console=Printed())


def test_the_records_are_listed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    console = Printed()

    assert print_telemetry(console=console) == 0
    assert len(console.lines) == 1 + len(RECORDS)
    assert any(line.startswith("TELE-303  Head Inf Latch") for line in console.lines)


def test_a_record_is_shown_with_its_wiring():
    console = Printed(width=60)

    assert print_telemetry("TELE-303", console=console) == 0
    for part in (
        "Head Inf Latch",
        "dict[str, bool]",
        "esper.simic.agent.ppo:PPOAgent._update",
        "esper.simic.telemetry.emitters:emit_ppo_update_event",
        "PPOUpdatePayload.head_inf_detected",
        "SanctumAggregator._handle_ppo_update",
        "SanctumSnapshot.tamiyo.head_inf_latch",
        "ActionHeadsPanel",
        "TELE-302",
        "test_head_inf_latch_end_to_end.py",
    ):
        assert part in console.text
    with pytest.raises(UnknownRecordError):
        print_telemetry("TELE-1", console=console)
