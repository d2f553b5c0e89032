"""Who acknowledged which lights, and when."""

from collections.abc import Callable, Sequence
from datetime import datetime

from rich.text import Text

from esper.karn.sanctum.fold.attention import LIGHT_WORDS
from esper.karn.store.run_files.acknowledgements import Acknowledgement
from esper.karn.text.palette import Palette


def render_acknowledged(
    acknowledgements: Sequence[Acknowledgement], name_of: Callable[[str], str], palette: Palette
) -> list[Text]:
    """Return a line for each acknowledgement, in local time.

    Args:
        acknowledgements: the acknowledgements.
        name_of: returns the name of a head on the screen.
        palette: the colours to choose from.
    """
    lights: dict[tuple[str, float], list[str]] = {}
    for seen in acknowledgements:
        word = f"{name_of(seen.head)} {LIGHT_WORDS.get(seen.light, seen.light)}"
        lights.setdefault((seen.who, seen.time), []).append(word)
    lines = []
    for (who, time), words in lights.items():
        line = Text(no_wrap=True).append(", ".join(words), palette.ink)
        line.append(f" acknowledged by {who} at {clock(time)}", palette.muted)
        lines.append(line)
    return lines


def clock(time: float) -> str:
    """Return a time with its date, in local time: 2025-11-22 19:40."""
    return datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M")
