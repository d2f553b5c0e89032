"""A store with damaged pages: what is unknown is reported, and is never shown as healthy."""

import json
import random
import sqlite3
from contextlib import closing
from typing import NamedTuple

import pytest

from esper.cli import sanctum_main
from esper.commands.health import print_health
from esper.karn.reports.run_catalogue import list_runs
from esper.karn.sanctum.cockpit.capture import render_once
from esper.karn.sanctum.cockpit.observer import RunObserver, UpdateNotFoundError, read_view
from esper.karn.sanctum.fold.attention import lit_lights
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.folding import first_that_counts
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunReader, RunStoreError, RunWriter, create_run
from esper.leyline.health import Level
from esper.leyline.telemetry import (
    DamagedPayload,
    DecisionsTaken,
    Notice,
    StepCompleted,
    encode_payload,
)

NOW = 10_000.0
STORE = "run.sqlite"
PAGE = 4096
UPDATES = 6
#: Notices that can be found in the store's file, by update: one among steps that Sanctum passes
#: over when it attaches, one among those that it reads.
MARKS = {2: "here it is", 4: "there it is"}


class Sound(NamedTuple):
    """A store without damage, and what is to be seen in it."""

    data: bytes
    view: View
    lit: dict[int, frozenset]  # lights by update
    shown: frozenset[int]  # the ids of all events but old steps and decisions
    marks: dict[int, int]  # the ids of the marks, by update


@pytest.fixture(scope="module")
def sound(tmp_path_factory, payloads):
    """A finished run of six updates, of which the third and the fifth broke something."""
    run = create_run(tmp_path_factory.mktemp("sound"), "sound")
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in range(1, UPDATES + 1):
            for step in range(1, 61):
                writer.emit(
                    DecisionsTaken(
                        update=update, step=step, actions=[], probabilities=[], values=[]
                    )
                )
                writer.emit(payloads.step(step, update=update, first_episode=update))
                if step == 10 and update in MARKS:
                    writer.emit(Notice(level="info", text=MARKS[update]))
            writer.emit(payloads.episodes(update))
            broken = {3: ("op", "+inf"), 5: ("slot", "nan")}.get(update)
            if broken is None:
                writer.emit(payloads.update(update))
            else:
                writer.emit(payloads.broken_update(update, *broken))
        writer.emit(payloads.finish(update=UPDATES))
    execute(run, "UPDATE heartbeat SET pid = 2147483646, time = 1.0")  # a process that is gone
    lit = {update: lights(read_view(run, NOW, at=update)) for update in range(1, UPDATES + 1)}
    assert lit[3] == {("op", "inf")}
    assert lit[6] == {("op", "inf"), ("slot", "nan")}
    view = read_view(run, NOW)
    assert (view.verdict.level, view.doubt.sentence) == (Level.CRITICAL, None)
    reader = RunReader(run)
    events = reader.read(0, 10_000)
    counts_from = first_that_counts(reader, len(events))
    assert counts_from > 200
    shown = frozenset(
        event.id
        for event in events
        if event.id >= counts_from or not isinstance(event.payload, (DecisionsTaken, StepCompleted))
    )
    marks = {
        update: event.id
        for update, text in MARKS.items()
        for event in events
        if getattr(event.payload, "text", "") == text
    }
    return Sound((run / STORE).read_bytes(), view, lit, shown, marks)


def execute(run, query, *values):
    with closing(sqlite3.connect(run / STORE)) as store:
        store.execute(query, values)
        store.commit()


def lights(view):
    return frozenset(lit_lights(view.snapshot.tamiyo))


def is_a_sentence(text):
    return bool(text) and "\n" not in text and "Traceback" not in text


def check_that_nothing_is_called_good(run, sound, chance, capsys):
    """Look at a damaged copy of a sound store in every way, and return what is to be seen now."""
    view = read_view(run, NOW)
    render_once(view, 80)
    assert sound.lit[UPDATES] <= lights(view) or view.doubt.lights is not None
    assert view.verdict.level >= Level.WARNING
    assert view.status.kind in (StatusKind.FINISHED, StatusKind.UNREADABLE)
    assert view.doubt.sentence is None or is_a_sentence(view.doubt.sentence)
    if view.doubt.error is None:
        events = RunReader(run).read(0, 10_000)
        damaged = {event.id for event in events if isinstance(event.payload, DamagedPayload)}
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert len(events) == sound.view.snapshot.last_event_id or view.doubt.sentence
        assert view.snapshot.run.damaged_events >= len(damaged & sound.shown)
    for update in (chance.randint(1, UPDATES), chance.randint(1, UPDATES)):
        try:
            past = read_view(run, NOW, at=update)
        except UpdateNotFoundError:
            continue  # nothing is shown then
        assert sound.lit[update] <= lights(past) or past.doubt.lights is not None
    (summary,) = list_runs(run.parent)
    assert {"op"} <= set(summary.inf_heads) or summary.doubt.lights
    assert {"slot"} <= set(summary.nan_heads) or summary.doubt.lights

    with pytest.raises(SystemExit) as end:
        sanctum_main(["--once", "--run-dir", str(run.parent)])
    _, errors = capsys.readouterr()
    assert (end.value.code == 2) == (view.doubt.lights is not None)
    assert errors.count("\n") == (view.doubt.lights is not None)
    try:
        code = print_health(run.parent)
    except RunStoreError:
        code = 2
    assert code in (1, 2)
    return view


@pytest.mark.parametrize("seed", range(40))
def test_one_wrong_byte_makes_nothing_look_good(run, sound, seed, capsys):
    chance = random.Random(seed)
    data = bytearray(sound.data)
    # Anywhere, or in the header of a page.
    at = chance.randrange(len(data))
    if seed % 2:
        at = at // PAGE * PAGE + chance.randrange(100)
    data[at] ^= chance.randint(1, 255)
    (run / STORE).write_bytes(data)

    check_that_nothing_is_called_good(run, sound, chance, capsys)


@pytest.mark.parametrize("seed", range(20))
def test_four_kilobytes_of_random_bytes_make_nothing_look_healthy(run, sound, seed, capsys):
    chance = random.Random(seed)
    data = bytearray(sound.data)
    at = chance.randrange(100, len(data) - PAGE)
    data[at : at + PAGE] = chance.randbytes(PAGE)
    (run / STORE).write_bytes(data)

    check_that_nothing_is_called_good(run, sound, chance, capsys)


def with_mark_numbered(sound, update, number):
    """Return a sound store's file with another id for one of the marks."""
    data = bytearray(sound.data)
    # The record before the payload: a header of six bytes, the time in eight, and the kind.
    at = data.index(b"notice", data.index(MARKS[update].encode()) - 40) - 8 - 6 - 2
    assert data[at : at + 2] == varint(sound.marks[update]), "the file is not as this test thinks"
    data[at : at + 2] = varint(number)
    return data


def varint(number):
    return bytes([0x80 | number >> 7, number & 0x7F])


@pytest.mark.parametrize("update", MARKS)
@pytest.mark.parametrize("wrong", [16_258, 1, 140, 400, 700])
def test_an_id_that_is_wrong_costs_no_more_than_its_page(run, sound, update, wrong, capsys):
    (run / STORE).write_bytes(with_mark_numbered(sound, update, wrong))

    view = check_that_nothing_is_called_good(run, sound, random.Random(0), capsys)
    assert 0 < view.snapshot.run.damaged_events < 20
    assert view.status.kind is StatusKind.FINISHED
    assert view.snapshot.run.update == UPDATES
    assert lights(view) == sound.lit[UPDATES]
    assert view.snapshot.tamiyo.evidence == sound.view.snapshot.tamiyo.evidence
    for update in range(1, UPDATES + 1):
        past = read_view(run, NOW, at=update)
        assert lights(past) == sound.lit[update]
        assert past.snapshot.run.update == update


def pages_of(run, name):
    """Return the offsets of the pages of a table or index of two levels, its root first."""
    with closing(sqlite3.connect(run / STORE)) as store:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        ((root,),) = store.execute(query, (name,))
    data = (run / STORE).read_bytes()
    at = (root - 1) * PAGE
    if data[at] in (0x0A, 0x0D):  # a leaf
        return [at]
    count = int.from_bytes(data[at + 3 : at + 5], "big")
    cells = [int.from_bytes(data[at + 12 + 2 * n : at + 14 + 2 * n], "big") for n in range(count)]
    children = [data[at + cell : at + cell + 4] for cell in cells] + [data[at + 8 : at + 12]]
    return [at, *((int.from_bytes(child, "big") - 1) * PAGE for child in children)]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["events", "rare_events", "events_by_kind"])
def test_entries_that_a_page_has_lost_are_missed(run, sound, name, place, capsys):
    (run / STORE).write_bytes(sound.data)
    data = bytearray(sound.data)
    pages = pages_of(run, name)
    leaves = pages[1:] or pages
    at = leaves[{"first": 0, "middle": len(leaves) // 2, "last": -1}[place]]
    data[at + 4] -= 1  # the number of cells
    (run / STORE).write_bytes(data)

    view = check_that_nothing_is_called_good(run, sound, random.Random(0), capsys)
    # What an index has lost, the table has. Of old steps and decisions none is missed.
    is_missed = name == "events" and place != "first"
    assert view.snapshot.run.damaged_events == is_missed
    assert lights(view) == sound.lit[UPDATES]
    assert (view.snapshot.run.update, view.status.kind == StatusKind.FINISHED) == (
        UPDATES,
        (name, place) != ("events", "last"),
    )


def test_a_light_without_an_event_counts_as_damage(run, sound, payloads):
    (run / STORE).write_bytes(sound.data)
    healthy = encode_payload(payloads.update(3))
    execute(
        run, "UPDATE events SET payload = ? WHERE update_index = 3 AND kind LIKE 'ppo%'", healthy
    )

    view = read_view(run, NOW)
    assert lights(view) == sound.lit[UPDATES]
    assert view.snapshot.run.damaged_events == 1
    texts = "\n".join(line.text for line in view.snapshot.log)
    assert "a light in the store's other tables has no event" in texts
    assert read_view(run, NOW, at=2).doubt.lights is None
    past = read_view(run, NOW, at=4)
    assert (lights(past), past.doubt.lights) == (sound.lit[4], "1 event is damaged")
    follower = RunFollower(run)
    assert follower.catch_up().snapshot is follower.catch_up().snapshot


def test_an_update_that_is_damaged_is_not_shown_as_the_one_before(run, sound):
    (run / STORE).write_bytes(sound.data)
    for update in (3, 6):
        execute(
            run,
            "UPDATE events SET payload = x'ab' WHERE update_index = ? AND kind = 'ppo_update'",
            update,
        )

    past = read_view(run, NOW, at=3)
    assert (lights(past), past.doubt.lights) == (sound.lit[3], "1 event is damaged")
    assert past.position.update == 3
    assert read_view(run, NOW, at=2).doubt.lights is None
    observer = RunObserver(run, run.parent)
    for update in (3, 2, 3, 4):  # the same, from wherever one comes
        observer.go_to(update)
        assert observer(NOW).snapshot == read_view(run, NOW, at=update).snapshot
    with pytest.raises(UpdateNotFoundError, match=r"no readable update 6, .* from 1 to 5"):
        read_view(run, NOW, at=6)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("UPDATE events SET payload = x'ab' WHERE kind = 'run_finished'", StatusKind.UNREADABLE),
        ("UPDATE events SET kind = 'run_fimished' WHERE kind = 'run_finished'", "UNREADABLE"),
        ("DELETE FROM events WHERE kind = 'run_finished'", StatusKind.DEAD),
        ("UPDATE events SET payload = x'ab' WHERE id = 500 OR kind = 'run_finished'", "UNREADABLE"),
    ],
)
def test_a_run_whose_end_cannot_be_read_is_not_called_dead(run, sound, query, kind):
    (run / STORE).write_bytes(sound.data)
    execute(run, query)

    assert read_view(run, NOW).status.kind == kind


def test_a_run_that_went_on_after_what_is_damaged_can_be_dead(run, sound):
    (run / STORE).write_bytes(sound.data)
    execute(run, "DELETE FROM events WHERE kind = 'run_finished'")
    execute(run, "UPDATE events SET payload = x'ab' WHERE id = 500")

    view = read_view(run, NOW)
    assert (view.status.kind, view.snapshot.run.damaged_events) == (StatusKind.DEAD, 1)


@pytest.mark.parametrize("value", ["time = 'noon'", "pid = 'x'", "time = 9e999"])
def test_an_invalid_heartbeat_is_reported_in_one_sentence(run, sound, value):
    (run / STORE).write_bytes(sound.data)
    execute(run, f"UPDATE heartbeat SET {value}")

    view = read_view(run, NOW)
    assert view.doubt.error.endswith("is damaged: its heartbeat has impossible values")
    assert view.status.kind is StatusKind.FINISHED
    assert lights(view) == sound.lit[UPDATES]


def test_a_heartbeat_that_is_missing_leaves_a_run_in_doubt_that_had_begun(run, sound):
    (run / STORE).write_bytes(sound.data)
    execute(run, "DELETE FROM heartbeat")
    assert read_view(run, NOW).status.kind is StatusKind.FINISHED
    execute(run, "DELETE FROM events WHERE kind = 'run_finished'")
    status = read_view(run, NOW).status
    assert status.kind is StatusKind.UNREADABLE
    assert "heartbeat of its process is missing" in status.sentence


def test_an_error_within_a_session_is_one_of_the_store(run, sound):
    (run / STORE).write_bytes(sound.data)
    reader = RunReader(run)
    execute(run, "DROP TABLE events")
    with pytest.raises(RunStoreError, match="is cut short or damaged"), reader.session():
        reader.last_ids("step_completed", 1)


def test_numbers_that_cannot_be_are_one_sentence(run, sound):
    (run / STORE).write_bytes(sound.data)
    execute(run, "UPDATE events SET id = id + 1000000000000")

    view = read_view(run, NOW)
    assert view.doubt.error.endswith("is damaged: its events have impossible numbers")
    assert view.status.kind is StatusKind.UNREADABLE
    assert lights(view) == sound.lit[UPDATES]


def test_what_is_not_known_is_null_for_machines(run, sound, capsys):
    (run / STORE).write_bytes(with_mark_numbered(sound, 4, 16_258))

    assert print_health(run.parent, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "FINISHED"
    assert report["head_inf_latch"] == {
        head: head == "op" or None for head in report["head_inf_latch"]
    }
