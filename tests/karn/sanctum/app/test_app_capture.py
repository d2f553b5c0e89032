"""One frame of a run as text, and as a picture."""

import html
import io
import math
import re
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from esper.commands.sanctum import print_once
from esper.karn.sanctum.cockpit.capture import export_frame
from esper.karn.sanctum.cockpit.picture_files import PictureError
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import LIT, UNLIT
from esper.karn.store.run_store import RunWriter
from esper.leyline.heads import Stage


def _printed(directory, width, **more):
    console = Console(file=io.StringIO(), width=width, highlight=False, **more)
    print_once(directory, console=console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_frame_is_printed_at_the_width_of_the_terminal(finished_run, width):
    lines = _printed(finished_run, width).splitlines()
    assert max(len(line) for line in lines) == width
    assert lines[0].startswith(" ● CRITICAL")
    (names,) = [line for line in lines if "Blueprint" in line]
    (inf,) = [line for line in lines if line.startswith("Inf")]
    assert inf[names.index(" Op") + 1] == LIT
    assert inf.count(UNLIT) == 7
    for title in ("Action heads", "Policy", "Hosts", "Log"):
        assert any(line.startswith(f"── {title} ──") for line in lines)
    assert any("FINISHED" in line for line in lines)


def test_a_frame_of_the_past_says_that_it_is_one(finished_run):
    assert "PAST" not in _printed(finished_run, 80)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_once(finished_run, console=console, at=1)
    lines = console.file.getvalue().splitlines()
    verdict, header = [line for line in lines[:5] if "PAST" in line]
    assert "PAST: lit since: op; then: nothing out of the ordinary" in verdict
    assert " PAST, update 1 of 2   now FINISHED" in header


def test_without_a_terminal_there_are_no_control_sequences(finished_run):
    assert "\x1b" not in _printed(finished_run, 100)


def test_with_no_color_a_terminal_gets_no_colours(finished_run, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = _printed(finished_run, 100, force_terminal=True)
    assert "\x1b[1m" in text
    assert "\x1b[31m" not in text
    assert "\x1b[3" not in text


def test_a_frame_leaves_out_seeds_as_the_overview_does(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.transition(Stage.GERMINATED))
        writer.emit(payloads.finish())
    text = _printed(run, 100)
    assert "run test started" in text
    assert "germinated in" not in text


def test_a_run_without_a_store_is_printed_as_waiting(run):
    assert "● WAITING" in _printed(run, 80)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_a_picture_shows_the_real_app(finished_run, tmp_path, size):
    path = tmp_path / "frame.svg"
    export_frame(finished_run, path, size)
    picture = path.read_text(encoding="utf-8").replace("&#160;", " ")
    assert picture.startswith("<svg")
    assert "Action heads" in picture
    assert LIT in picture
    assert "FINISHED" in picture
    assert 'url("http' not in picture  # it looks the same where there is no internet


def _cells(text):
    """Return the text of each cell; empty for the second cell of a wide sign."""
    return [cell for sign in text for cell in [sign, *[""] * (cell_len(sign) - 1)]]


@pytest.mark.parametrize("screen", ["overview", "heads"])
def test_a_picture_needs_no_blanks_to_have_everything_in_its_place(run, payloads, tmp_path, screen):
    with RunWriter(run) as writer:
        writer.emit(payloads.start(name="日本語  ab"))
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish())
    picture, text = tmp_path / "frame.svg", tmp_path / "frame.txt"
    for path in (picture, text):
        export_frame(run, path, (120, 40), screen=screen)
    lines = [[" "] * 120 for _ in range(40)]
    for piece in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text"):
        if "textLength" not in piece.attrib:
            continue  # the title of the window
        assert piece.text == piece.text.strip()
        x = round(float(piece.get("x")) / 12.2)
        cells = _cells(piece.text)
        lines[round((float(piece.get("y")) - 20) / 24.4)][x : x + len(cells)] = cells
        assert float(piece.get("textLength")) == pytest.approx(12.2 * len(cells), abs=0.2)
    drawn = ["".join(line).replace("\N{NO-BREAK SPACE}", " ").rstrip() for line in lines]
    assert drawn == text.read_text(encoding="utf-8").splitlines()


SCREENS = {
    "overview": "Action heads",
    "heads": "Evidence",
    "hosts": "Growth of host 1",
    "decisions": "Decision",
    "log": "4 of",
    "runs": "incidents",
}


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_can_be_written_as_text(finished_run, tmp_path, screen):
    path = tmp_path / "frame.txt"
    export_frame(finished_run, path, (120, 40), screen=screen)
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 40
    assert SCREENS[screen] in text
    assert f"{list(SCREENS).index(screen) + 1} {screen.capitalize()}" in text


def test_a_page_shows_the_same_in_colour_and_loads_nothing(finished_run, tmp_path):
    export_frame(finished_run, tmp_path / "frame.txt")
    export_frame(finished_run, tmp_path / "frame.html", theme="light")
    page = (tmp_path / "frame.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"<[^>]*>", "", page.partition("<code>")[2]))
    for line in (tmp_path / "frame.txt").read_text(encoding="utf-8").splitlines():
        assert line in shown
    assert "#f6f5f1" in page
    assert "http" not in page
    assert "<script" not in page


def test_a_suffix_that_says_nothing_is_one_sentence(finished_run, tmp_path):
    with pytest.raises(PictureError, match=r"must end in one of \.svg, \.html, \.txt"):
        export_frame(finished_run, tmp_path / "frame.pdf")


@pytest.mark.parametrize("suffix", [".svg", ".html", ".txt"])
def test_a_picture_can_do_without_anything_beyond_ascii(finished_run, tmp_path, suffix):
    path = tmp_path / f"frame{suffix}"
    export_frame(finished_run, path, ascii_only=True)
    assert html.unescape(path.read_text(encoding="utf-8")).replace("\xa0", " ").isascii()


def test_a_frame_is_printed_in_ascii_in_the_colours_of_a_theme(finished_run):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    print_once(finished_run, console=console, ascii_only=True, theme="dark")
    text = console.file.getvalue()
    assert text.isascii()
    assert "* CRITICAL" in text
    assert "255;97;97" in text  # the dark theme's red


def test_every_sign_of_a_page_stands_in_its_cell_whatever_its_width_in_a_font(
    run, payloads, tmp_path
):
    with RunWriter(run) as writer:
        writer.emit(payloads.start(name="日本語  ab"))
        for update in range(1, 30):
            writer.emit(payloads.update(update, policy_loss=math.sin(update)))
        writer.emit(payloads.finish())
    for suffix in ("txt", "html"):
        export_frame(run, tmp_path / f"frame.{suffix}", (200, 60))
    page = (tmp_path / "frame.html").read_text(encoding="utf-8")
    lines = page.partition("<code>")[2].partition("</code>")[0].split("\n")
    shown = (tmp_path / "frame.txt").read_text(encoding="utf-8").splitlines()
    assert any("⠤" <= sign <= "⣿" for line in shown for sign in line)
    assert len(lines) == len(shown) == 60
    for line, text in zip(lines, shown, strict=True):
        drawn, width = "", 0
        for piece in re.finditer(r'<b class="s\d+" style="width:(\d+)ch">(.*?)</b>', line):
            cells = re.findall(r'<i( class="w")?>(.+?)</i>|([^<]+)', piece[2])
            signs = [html.unescape(sign or plain) for _, sign, plain in cells]
            assert all(plain.isascii() for _, _, plain in cells)
            assert all(cell_len(html.unescape(sign)) == 1 + bool(w) for w, sign, _ in cells if sign)
            assert sum(map(cell_len, signs)) == int(piece[1])
            drawn += "".join(signs)
            width += int(piece[1])
        assert width == 200
        assert drawn.rstrip() == text
