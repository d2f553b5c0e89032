"""One filter for text that comes from outside."""

import pytest

from esper.leyline.text.plain_text import REPLACEMENT, printable, printable_line


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "\x9b31m", "\u202egnp.exe", "\u2066x", "\x07", "\r", "\ud800", "\u200f"]
)
def test_what_a_terminal_would_act_upon_is_replaced(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert REPLACEMENT in shown
    assert not any(character in shown for character in "\x1b\x9b\u202e\u2066\x07\r\ud800\u200f")


@pytest.mark.parametrize("text", ["plain", "Größe ● ○ ⣿ 数", "two\nlines\tand a tab", ""])
def test_everything_else_is_left(text):
    assert printable(text) == text


def test_a_line_is_one_line():
    assert printable_line("a\r\nb\nc\td\x1b") == "a b c d\N{REPLACEMENT CHARACTER}"
