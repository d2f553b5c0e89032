"""The console's tail: bounded, plain text, and the same however the file grew."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.cockpit.observer import read_view
from esper.karn.store.run_files.console_tail import LINES_KEPT, ConsoleTail, plain

NAME = "console.log"


@pytest.fixture
def append(tmp_path):
    """A function that appends to a console log."""

    def write(data):
        with (tmp_path / NAME).open("ab") as log:
            log.write(data)

    return write


def test_lines_come_as_they_are_written(tmp_path, append):
    tail = ConsoleTail(tmp_path)
    assert tail.lines() == ()
    append(b"one\ntw")
    assert tail.lines() == ("one", "tw")
    append(b"o\nthree\n")
    assert tail.lines() == ("one", "two", "three")
    assert tail.lines() is tail.lines()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r50%\r100%", "100%"),
        ("done\r", "done"),
        ("a\tb", "a       b"),
        ("bell\x07 and \x00nothing", "bell and nothing"),
        ("\x1b[2K\x1b[1Gagain", "again"),
        ("\x1b", ""),
        ("x" * 5_000, "x" * 1_000),
        ("naïve ✓", "naïve ✓"),
    ],
)
def test_a_line_is_what_a_terminal_would_show(written, shown):
    assert plain(written) == shown


@given(st.text().map(lambda text: text.replace("\n", "")))
def test_no_control_character_gets_through(text):
    assert plain(text).isprintable() or all(
        character.isprintable() or ord(character) > 0x9F for character in plain(text)
    )


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_however_a_file_grew_its_lines_are_the_same(tmp_path_factory, data, cuts):
    directory = tmp_path_factory.mktemp("run")
    path = directory / NAME
    tail = ConsoleTail(directory)
    edges = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    for start, end in pairwise(edges):
        with path.open("ab") as log:
            log.write(data[start:end])
        tail.lines()

    if data:
        assert tail.lines() == ConsoleTail(directory).lines()


def test_much_output_is_bounded_and_its_end_is_there(tmp_path, append):
    tail = ConsoleTail(tmp_path)
    append(b"".join(b"line %d\n" % number for number in range(50_000)))
    lines = tail.lines()

    assert len(lines) == LINES_KEPT
    assert lines[-1] == "line 49999"
    append(b"y" * 1_000_000)
    assert len(tail.lines()) == LINES_KEPT
    assert set(tail.lines()[-1]) == {"y"}


def test_a_log_that_was_replaced_or_cut_is_read_again_from_its_start(tmp_path, append):
    tail = ConsoleTail(tmp_path)
    append(b"first\nsecond\n")
    assert tail.lines() == ("first", "second")
    (tmp_path / NAME).write_bytes(b"new\n")
    assert tail.lines() == ("new",)
    (tmp_path / NAME).unlink()
    assert tail.lines() == ("new",)  # what was there was there
    append(b"other\n")
    assert tail.lines() == ("other",)


def test_an_unreadable_console_log_is_empty_output(tmp_path):
    (tmp_path / NAME).mkdir()
    assert ConsoleTail(tmp_path).lines() == ()


def test_a_view_has_the_console_of_its_run(finished_run):
    (finished_run / NAME).write_text("training\n")
    assert read_view(finished_run, 1.0).console == ("training",)
