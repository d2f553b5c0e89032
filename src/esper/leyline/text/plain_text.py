"""Makes text from files and users safe to print: names, stores and capsules can hold anything.

A control character can move the cursor, set a title or colours, or run commands of the terminal. A
bidirectional mark reorders text. Half of a surrogate pair cannot be encoded.
"""

import re
from collections.abc import Sequence
from typing import Final

#: Replaces each character that is not shown.
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

_LONGEST_VALUE: Final = 80

# C0 and C1 controls but tab and line feed; marks and isolates that change the direction of text;
# separators of lines and paragraphs; invisible operators, tags and surrogates.
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return the text with all control characters and direction marks replaced."""
    return _UNFIT.sub(REPLACEMENT, text)


def printable_line(text: str) -> str:
    """Return the text as above on one line: line ends and tabs become blanks."""
    return printable(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def short_repr(value: object) -> str:
    """Return the `repr` of a value for a message, cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return "a value that is too long to show"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def name_at(names: Sequence[str], index: int) -> str:
    """Return the name at an index; "#7" where there is none, since a store can hold any number."""
    return names[index] if 0 <= index < len(names) else f"#{index}"
