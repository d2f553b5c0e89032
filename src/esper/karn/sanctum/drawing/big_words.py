"""Letters two lines high, made of half blocks, for the master status."""

from typing import Final

# Only the letters of the words of the master status.
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
        KeyError: the word has a letter that no word of the master status has.
    """
    letters = [_LETTERS[letter] for letter in word]
    return " ".join(top for top, _ in letters), " ".join(bottom for _, bottom in letters)
