"""Searching the console output, against a search through all of its lines."""

import pytest

from esper.karn.sanctum.following import console_search
from esper.karn.sanctum.following.console_search import ConsoleSearch
from esper.karn.sanctum.following.searching import LINES_FOUND
from esper.karn.store.run_files.console_tail import plain


def searched(search):
    """Return the result of a search when it is over."""
    for _ in range(100_000):
        result = search.step()
        if result.is_over:
            return result
    return pytest.fail("the search did not end")


def matching(text, wanted):
    return tuple(line for line in map(plain, text.split("\n")) if wanted.lower() in line.lower())


@pytest.mark.parametrize("size", [1 << 18, 64, 33])
@pytest.mark.parametrize("end", ["", "\n", "\nan Error without an end"])
def test_a_search_finds_what_all_lines_have(tmp_path, monkeypatch, size, end):
    monkeypatch.setattr(console_search, "BYTES_PER_STEP", size)
    text = "\n".join(f"{n} error" if n % 7 == 0 else f"\x1b[1m{n}\x1b[0m" for n in range(99)) + end
    (tmp_path / "console.log").write_text(text)
    result = searched(ConsoleSearch(tmp_path, "ERROR"))
    assert result.lines == matching(text, "error")
    assert result.is_whole
    assert result.error is None


@pytest.mark.parametrize("size", [1 << 18, 33])
def test_a_search_goes_on_as_the_output_grows(tmp_path, monkeypatch, size):
    monkeypatch.setattr(console_search, "BYTES_PER_STEP", size)
    path = tmp_path / "console.log"
    search = ConsoleSearch(tmp_path, "epoch")
    assert searched(search).lines == ()  # there is no output yet
    text = ""
    for more in ("epoch 1\nloss 2\nepo", "ch 2\n" + "loss 3\n" * 20, "epoch 3", " and a half\n"):
        text += more
        path.write_text(text)
        assert searched(search).lines == matching(text, "epoch")
    path.write_text("another epoch\n")
    assert searched(search).lines == ("another epoch",)


def test_the_newest_lines_are_kept_and_the_search_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(console_search, "BYTES_PER_STEP", 4096)
    (tmp_path / "console.log").write_text("".join(f"line {n}\n" for n in range(10_000)))
    result = searched(ConsoleSearch(tmp_path, "line"))
    assert result.lines == tuple(f"line {n}" for n in range(10_000 - LINES_FOUND, 10_000))
    assert not result.is_whole
    assert result.reached == "the last 0.0 MB"


def test_unreadable_output_is_reported(tmp_path):
    (tmp_path / "console.log").mkdir()
    assert searched(ConsoleSearch(tmp_path, "x")).error == "Is a directory"
