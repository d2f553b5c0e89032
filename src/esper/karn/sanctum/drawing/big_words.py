"""Letters two lines high, out of half blocks, for what must be read from across a room."""

from typing import Final

# Only the letters of the words that the master status can say.
_LETTERS: Final = {
    "A": ("▄▀█", "█▀█"),
    "C": ("█▀▀", "█▄▄"),
    "D": ("█▀▄", "█▄▀"),
    "E": ("█▀▀", "██▄"),
    "G": ("█▀▀", "█▄█"),
    "H": ("█ █", "█▀█"),
    "I": ("█", "█"),
    "L": ("█  ", "█▄▄"),
    "N": ("█▄ █", "█ ▀█"),
    "O": ("█▀█", "█▄█"),
    "R": ("█▀█", "█▀▄"),
    "S": ("█▀▀", "▄▄█"),
    "T": ("▀█▀", " █ "),
    "W": ("█ █ █", "▀▄▀▄▀"),
    "Y": ("█ █", " █ "),
    " ": (" ", " "),
}


def big_word(word: str) -> tuple[str, str]:
    """Return the two lines of a word in large letters.

    Raises:
        KeyError: one of the letters is not among those that Sanctum's words need.
    """
    letters = [_LETTERS[letter] for letter in word]
    return " ".join(top for top, _ in letters), " ".join(bottom for _, bottom in letters)
