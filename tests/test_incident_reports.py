"""The list of incidents: every fact of it, in lines that fit."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from capsule_files import write_empty_capsule

from esper.cli import main
from esper.commands.health import print_health
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import IncidentRecorded


def print_incidents(run_dir: Path, *options: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["incidents", "--run-dir", str(run_dir), *options])
    assert ended.value.code == 0


def test_the_list_names_all_that_was_seen_in_lines_of_100_columns(
    tmp_path: Path, payloads: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"epoch": 0, "minibatch": 0}
    sightings = [
        *(
            payloads.sighting(
                head="hosts",
                quantity="loss",
                kind="nan",
                phase="hosts",
                host=host,
                step=2,
                **before,
            )
            for host in (3, 0, 5)
        ),
        payloads.sighting(phase="acting", host=3, step=7, **before),
        payloads.sighting(
            head="shared",
            quantity="moments",
            part="exp_avg_sq of lstm.weight_ih_l0",
            reproduced=False,
            planted=True,
            host=11,
            step=24,
        ),
    ]
    reason = "it shows nothing new, and 8 such are kept (--incidents-kept)"
    with RunWriter(create_run(tmp_path, "test")) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(12, head_nonfinite=sightings))
        writer.emit(IncidentRecorded(update=12, number=3, path="", size=0, reason=reason))
        writer.emit(payloads.finish(update=12))

    print_incidents(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1:] == [
        f"   3  update 12, not kept: {reason}",
        "      hosts NaN in loss, while training host 4, step 2, also in hosts 1 and 6",
        "      op Inf in logits, while acting, host 4, step 7",
        "      shared Inf in moments (exp_avg_sq of lstm.weight_ih_l0), host 12, step 24, epoch 1,",
        "        minibatch 1, not reproduced, planted by a drill",
    ]


def counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    """Return incidents and those not kept, after a check that every reader reports the same."""
    (run,) = runs.iterdir()
    print_incidents(runs, "--json")
    report = json.loads(capsys.readouterr().out)
    kept = [row["kept"] for row in report["incidents"]]
    number, not_kept = len(kept) + report["not_listed"], kept.count(False) + report["not_listed"]
    for brief in (False, True):
        follower = RunFollower(run, brief=brief)
        snapshot = follower.catch_up().snapshot
        done = snapshot.interventions
        assert (done.incidents, done.incidents_not_kept) == (number, not_kept)
        assert [bool(one.path) for one in snapshot.incidents] == kept
    assert (before := follower.state_after(1)) is None or before.interventions.incidents == 0
    print_health(runs, None, as_json=True)
    health = json.loads(capsys.readouterr().out)
    assert health["incidents"] == {"kept": kept.count(True), "not_kept": not_kept}
    print_health(runs, None)
    text = capsys.readouterr().out
    assert f"incidents: {number}" in text
    assert ("esper replay" in text) == any(kept)
    return number, not_kept


def test_every_reader_joins_the_incidents_of_the_store_with_the_capsules_on_the_disk(
    tmp_path: Path,
    payloads: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = create_run(tmp_path, "test")
    seen = payloads.sighting(head="op")
    write_empty_capsule(run, 1, 2, seen)  # as a store leaves it that was lost
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        for number in (2, 3, 3):  # the third update was trained again
            path = "incidents/0002" if number == 2 else ""
            writer.emit(payloads.update(2 * number, head_nonfinite=[seen]))
            writer.emit(IncidentRecorded(update=2 * number, number=number, path=path, size=0))
        write_empty_capsule(run, 2, 4, seen)
        writer.emit(payloads.finish(update=6))
    assert counted(tmp_path, capsys) == (3, 1)
    (run / "incidents" / "0001" / "capsule.pt").unlink()
    assert counted(tmp_path, capsys) == (3, 2)
    shutil.rmtree(run / "incidents" / "0002")
    assert counted(tmp_path, capsys) == (3, 3)
    monkeypatch.setattr("esper.services.incident_reports._INCIDENTS_LISTED", 1)
    print_incidents(tmp_path)
    assert capsys.readouterr().out.endswith("1 older, not kept, are not listed\n")


def test_incidents_are_listed_without_a_store(
    tmp_path: Path, payloads: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create_run(tmp_path, "test")
    write_empty_capsule(run, 1, 2, payloads.sighting(head="op"))
    print_incidents(tmp_path)
    output = capsys.readouterr()
    assert "   1  update 2, 0.0 MiB" in output.out
    assert "only incidents with a capsule are listed" in output.err
    assert RunFollower(run).catch_up().snapshot.interventions.incidents == 1


def test_a_damaged_store_says_that_incidents_may_be_missing(
    tmp_path: Path, payloads: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create_run(tmp_path, "test")
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        writer.emit(payloads.finish(update=1))
    with closing(sqlite3.connect(run / "run.sqlite")) as store:
        store.execute("UPDATE events SET payload = x'ab' WHERE kind = 'ppo_update'")
        store.commit()
    print_incidents(tmp_path)
    printed = capsys.readouterr()
    assert "1 event is damaged: incidents without a capsule may be missing" in printed.err
    assert "every update was finite" not in printed.out
