"""Sanctum's signs in ASCII, for terminals without Unicode.

A sign keeps its width, so that the layout stays. Characters that are not in the table, such as a
run name in another script, become question marks.
"""

from functools import lru_cache
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_SIGNS: Final = {
    # lights, and signs of the log
    "●": "*", "○": "o", "◉": "@", "✗": "x", "¹": "1",
    # points of a curve that are not finite
    "×": "x", "↑": "^", "↓": "v",
    # stages of a seed
    "·": ".", "▫": "g", "▪": "t", "◧": "b", "■": "h", "◆": "f", "−": "-",
    # heights and bars
    "▁": "_", "▂": ".", "▃": "-", "▄": "~", "▅": "=", "▆": "+", "▇": "%", "█": "#", "▀": '"',
    "▏": "|", "▎": "|", "▍": "|", "▌": "|", "▋": "#", "▊": "#", "▉": "#", "▐": "|",
    "━": "=",  # of a bar, the part that is done
    "░": ".", "▒": ":", "▓": "%", "▔": "-", "▕": "|",
    # time
    "▶": ">", "‖": "=", "▸": ">", "◀": "<", "▼": "v", "▲": "^", "→": ">", "←": "<",
    # writing
    "»": ">", "🔎": "> ",
    "…": "~", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "≥": ">", "≤": "<",
    "≈": "~", "±": "+", "∞": "8", "✓": "v", "•": "*", "Δ": "D",
    "α": "a", "β": "b", "γ": "g", "λ": "l", "σ": "s", "µ": "u", "²": "2", "³": "3",
    "ä": "a", "ö": "o", "ü": "u", "ß": "s", "é": "e", "è": "e", "\xa0": " ",
}  # fmt: skip
_BOXES: Final = {
    "-": "─┄┅┈┉╌╍═╴╶╸╺",
    "|": "│┃┆┇┊┋╎╏║╵╷╹╻",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬┏┓┗┛┣┫┳┻╋┠┨┯┷┿╞╡╤╧╪┝┥",
}
_TABLE: Final = str.maketrans(
    _SIGNS | {sign: plain for plain, signs in _BOXES.items() for sign in signs}
)
_BRAILLE: Final = range(0x2800, 0x2900)
_NO_STYLE: Final = Style()
#: The dots of a Braille character by row from the top, and the ASCII sign for a dot in that row.
_BRAILLE_ROWS: Final = ((0x09, "'"), (0x12, "-"), (0x24, "."), (0xC0, "_"))


@lru_cache(4096)
def to_ascii(text: str) -> str:
    """Return a text of the same width with ASCII characters only."""
    if text.isascii():
        return text
    text = text.translate(_TABLE)
    return text if text.isascii() else "".join(map(_plain, text))


def instead_of(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for signs that an encoding lacks: an error handler for `codecs`.

    Raises:
        UnicodeError: the error is not an encoding error.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if ord(character) in _BRAILLE:
        signs = [sign for dots, sign in _BRAILLE_ROWS if ord(character) & dots]
        return (
            " " if not signs else signs[0] if len(signs) == 1 else ":" if len(signs) == 2 else "|"
        )
    return "?" * cell_len(character)


def segments_in_ascii(segments: list[Segment]) -> list[Segment]:
    """Return segments with the same styles and widths, in ASCII."""
    return [Segment(to_ascii(text), style, control) for text, style, control in segments]


def text_in_ascii(text: Text) -> Text:
    """Return a line with the same styles and widths, in ASCII.

    A sign of two cells becomes two characters, so styles are applied piece by piece.
    """
    pieces = text.divide(sorted({place for span in text.spans for place in span[:2]}))
    line = Text(style=text.style, no_wrap=True)
    for piece in pieces:
        style = Style.combine([_NO_STYLE, *(Style.parse(str(span.style)) for span in piece.spans)])
        line.append(to_ascii(piece.plain), style)
    return line
