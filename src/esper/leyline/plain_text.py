"""Text from outside, made fit for a terminal: names, stores and capsules can hold anything.

A control character can move the cursor, set a title or colours, or run a terminal's own commands; a
bidirectional mark makes a text read as another one; half of a surrogate pair cannot be written.
"""

import re
from collections.abc import Sequence
from typing import Final

#: Stands in the place of each character that is not shown.
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

_LONGEST_VALUE: Final = 80

# C0 and C1 controls but tab and line feed; marks and isolates that change the direction of text;
# separators of lines and paragraphs; invisible operators, tags and surrogates.
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return the text with every character that a terminal would act upon replaced."""
    return _UNFIT.sub(REPLACEMENT, text)


def printable_line(text: str) -> str:
    """Return the text as above on one line: line ends and tabs become blanks."""
    return printable(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def short_repr(value: object) -> str:
    """Return a value as it stands in a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return "a value that is too long to show"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def name_at(names: Sequence[str], index: int) -> str:
    """Return the name at an index; "#7" where there is none, since a store can hold any number."""
    return names[index] if 0 <= index < len(names) else f"#{index}"
