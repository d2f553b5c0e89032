"""Acknowledgements: appended by several at once, whole after damage, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.cockpit.capture import render_once
from esper.karn.sanctum.cockpit.observer import RunObserver, read_view
from esper.karn.sanctum.fold.attention import unacknowledged
from esper.karn.sanctum.overview.master_status import master_word, reasons
from esper.karn.store.run_files import acknowledgements
from esper.karn.store.run_files.acknowledgements import (
    Acknowledgement,
    AcknowledgementError,
    acknowledge,
    read,
    who_am_i,
)
from esper.karn.store.run_store import RunWriter

NAME = acknowledgements.ACKNOWLEDGEMENTS_NAME


def test_nothing_is_acknowledged_before_somebody_does(tmp_path):
    assert read(tmp_path) == acknowledgements.Acknowledged()
    assert read(tmp_path / "nowhere") == acknowledgements.Acknowledged()


def test_who_and_when_are_read_back(tmp_path):
    acknowledge(tmp_path, [("op", "inf"), ("shared", "nan")], "ada@ship", 1_000.5)

    assert read(tmp_path).entries == (
        Acknowledgement("op", "inf", "ada@ship", 1_000.5),
        Acknowledgement("shared", "nan", "ada@ship", 1_000.5),
    )


def test_the_first_to_acknowledge_a_light_has_acknowledged_it(tmp_path):
    acknowledge(tmp_path, [("op", "inf")], "ada@ship", 1.0)
    new = acknowledge(tmp_path, [("op", "inf"), ("op", "nan")], "bob@shore", 2.0)

    assert new == (Acknowledgement("op", "nan", "bob@shore", 2.0),)
    assert [(entry.light, entry.who) for entry in read(tmp_path).entries] == [
        ("inf", "ada@ship"),
        ("nan", "bob@shore"),
    ]
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 2


@pytest.mark.parametrize("rubbish", [b"{", b"null\n[]\n", b"\xff\xfe\n", b'{"head": "op"}\n'])
def test_damaged_lines_are_skipped_and_reported(tmp_path, rubbish):
    acknowledge(tmp_path, [("op", "inf")], "ada@ship", 1.0)
    with (tmp_path / NAME).open("ab") as file:
        file.write(rubbish)
    acknowledge(tmp_path, [("slot", "nan")], "ada@ship", 2.0)
    found = read(tmp_path)

    assert [entry.head for entry in found.entries] == ["op", "slot"]
    assert f"{tmp_path / NAME} is damaged in line 2" in found.error
    assert "\n" not in found.error


@given(st.binary(max_size=200))
def test_no_file_is_ever_a_traceback(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("run")
    (directory / NAME).write_bytes(data)
    read(directory)
    acknowledge(directory, [("op", "inf")], "ada@ship", 1.0)

    assert "op" in [entry.head for entry in read(directory).entries]


def test_several_cockpits_at_once_lose_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from esper.karn.store.run_files.acknowledgements import acknowledge\n"
        "for number in range(50):\n"
        "    acknowledge(Path(sys.argv[1]), [(f'{sys.argv[2]}-{number}', 'inf')], 'x@y', 1.0)\n"
    )
    cockpits = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "abc"
    ]
    assert [cockpit.wait(60) for cockpit in cockpits] == [0, 0, 0]

    found = read(tmp_path)
    assert found.error is None
    assert {entry.head for entry in found.entries} == {
        f"{name}-{number}" for name in "abc" for number in range(50)
    }


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / NAME).mkdir()

    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AcknowledgementError, match="cannot be written to") as caught:
            acknowledge(directory, [("op", "inf")], "ada@ship", 1.0)
        assert "\n" not in str(caught.value)
    assert "cannot be read" in read(tmp_path).error


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_written(tmp_path, full_disk):
    acknowledge(tmp_path, [("op", "inf")], "ada@ship", 1.0)
    before = (tmp_path / NAME).read_bytes()
    with full_disk(), pytest.raises(AcknowledgementError, match="cannot be written to") as caught:
        acknowledge(tmp_path, [("slot", "inf")], "ada@ship", 1.0)

    assert "\n" not in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == before
    acknowledge(tmp_path, [("slot", "inf")], "ada@ship", 2.0)
    assert [entry.head for entry in read(tmp_path).entries] == ["op", "slot"]


def test_a_full_disk_leaves_no_half_a_line(tmp_path, monkeypatch):
    acknowledge(tmp_path, [("op", "inf")], "ada@ship", 1.0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(AcknowledgementError, match="only a part"):
        acknowledge(tmp_path, [("slot", "inf")], "ada@ship", 1.0)
    monkeypatch.undo()

    assert [entry.head for entry in read(tmp_path).entries] == ["op"]
    assert read(tmp_path).error is None


def test_a_light_is_inf_or_nan(tmp_path):
    with pytest.raises(AcknowledgementError, match="not 'on'"):
        acknowledge(tmp_path, [("op", "on")], "ada@ship", 1.0)
    assert not (tmp_path / NAME).exists()


def test_one_is_known_by_user_and_machine(monkeypatch):
    assert "@" in who_am_i()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid")))
    assert who_am_i().startswith(f"{os.getuid()}@")


def test_a_view_has_what_was_acknowledged_and_the_store_is_untouched(finished_run):
    store = finished_run / "run.sqlite"
    before = store.read_bytes()
    observer = RunObserver(finished_run, Path("nowhere"))
    assert observer(1.0).acknowledgements == ()
    acknowledge(finished_run, [("op", "inf")], "ada@ship", 1.0)

    for view in (observer(2.0), read_view(finished_run, 2.0), read_view(finished_run, 2.0, at=1)):
        assert [entry.head for entry in view.acknowledgements] == ["op"]
        assert view.doubt.error is None
    assert store.read_bytes() == before
    (finished_run / NAME).write_bytes(b"rubbish")
    view = observer(3.0)
    assert str(finished_run / NAME) in view.doubt.acknowledgements
    assert view.doubt.sentence == view.doubt.acknowledgements


def test_a_damaged_line_loses_only_what_it_acknowledged(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update, head in enumerate(("op", "slot", "style"), start=1):
            writer.emit(payloads.broken_update(update, head, "nan"))
        writer.emit(payloads.finish(update=3))
    observer = RunObserver(run, Path("nowhere"))
    before = observer(1.0)
    for head in ("op", "slot", "style"):
        acknowledge(run, [(head, "nan")], "ada@ship", 1.0)
    lines = (run / NAME).read_bytes().splitlines(keepends=True)
    (run / NAME).write_bytes(lines[0] + lines[1][:20] + b"\xff\n" + lines[2])
    view = observer(2.0)

    assert unacknowledged(view) == {("slot", "nan")}
    assert view.snapshot == before.snapshot
    assert view.doubt.error is None
    assert not view.doubt.is_unread
    assert master_word(view) == master_word(before)
    # What is still acknowledged comes after what is not; nothing is lost.
    assert reasons(view) == (
        "slot went NaN in logits, update 2; first of the run: op NaN, update 1",
        "op went NaN in logits, update 1",
        "NaN seen in style, op",
        "1 minibatch of the last update was skipped because of NaN or Inf",
    )
    assert view.doubt.sentence == (
        f"{run / NAME} is damaged in line 2: "
        "acknowledge the missing lights again and delete that line"
    )
    assert view.doubt.sentence in render_once(view, 300).plain


def test_a_file_that_cannot_be_read_leaves_the_lights_as_they_are(finished_run):
    (finished_run / NAME).mkdir()
    observer = RunObserver(finished_run, Path("nowhere"))
    view = observer(1.0)

    assert view.doubt.error is None
    assert master_word(view) != "NO DATA"
    assert view.doubt.sentence == (
        f"{finished_run / NAME} cannot be read (Is a directory), so no light counts as "
        "acknowledged: make it readable or move it away"
    )
