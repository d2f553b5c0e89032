"""Next-character prediction on a text: the task of a small transformer.

A sample is a window of characters, its class the character that follows. The windows of a part are
views of one array of symbols, so a text takes one byte a character, whatever the window.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from esper.growth.tasks.splitting import LARGEST_VALIDATION
from esper.growth.tasks.task import InvalidTaskError, Split, Task
from esper.leyline.task_names import TaskName

#: Default and maximum of characters in a window (option `context`).
CONTEXT, LARGEST_CONTEXT = 32, 512
#: Maximum of different characters in a text: each is stored in one byte.
LARGEST_VOCABULARY = 256
#: Windows in a part, at most; those of a longer text begin further apart.
LARGEST_TRAINING, LARGEST_TEST = 50_000, 5_000
#: Minimum of windows in the training part: two minibatches of the default size.
LEAST_TRAINING = 100
#: Channels of a host: few, so that growth can help.
CHANNELS = 16
# Shares of the text from its beginning: validation and test are what comes after.
_TRAINING_SHARE, _VALIDATION_SHARE = 0.8, 0.1


def load_characters(name: TaskName) -> Task:
    """Load the task of a text file: predict the next character.

    The beginning of the text is for training, its end for validation and test, so that no window is
    in two parts.

    Raises:
        InvalidTaskError: the file cannot be read, is too short, or has too many characters.
    """
    path = name.path
    context = _context(name)
    text = _read(path)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    vocabulary, symbols = np.unique(codes, return_inverse=True)
    if not 2 <= len(vocabulary) <= LARGEST_VOCABULARY:
        raise InvalidTaskError(
            f"{path} has {len(vocabulary)} different characters: it must have 2 to "
            f"{LARGEST_VOCABULARY}"
        )
    count = len(symbols)
    first, second = (
        int(share * count) for share in (_TRAINING_SHARE, _TRAINING_SHARE + _VALIDATION_SHARE)
    )
    if first - context < LEAST_TRAINING or min(second - first, count - second) <= context:
        raise InvalidTaskError(
            f"{path} has {count} characters: for windows of {context} it needs at least "
            f"{_least(context)}"
        )
    tensor = torch.from_numpy(symbols.astype(np.uint8))
    characters = tuple(map(chr, vocabulary.tolist()))
    return Task(
        name=name.text,
        train=_text_windows(tensor[:first], context, LARGEST_TRAINING),
        validation=_text_windows(tensor[first:second], context, LARGEST_VALIDATION),
        test=_text_windows(tensor[second:], context, LARGEST_TEST),
        classes=len(characters),
        channels=CHANNELS,
        class_names=characters,
        vocabulary=characters,
        fingerprint=hashlib.blake2b(f"{context} {text}".encode(), digest_size=16).hexdigest(),
    )


def _least(context: int) -> int:
    """Return a length that is enough for windows of this size."""
    by_part = (
        (LEAST_TRAINING + context) / _TRAINING_SHARE,
        (context + 2) / _VALIDATION_SHARE,
    )
    return int(max(by_part)) + 10


def _context(name: TaskName) -> int:
    text = name.options.get("context", str(CONTEXT))
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_CONTEXT:
        raise InvalidTaskError(
            f"the context of {name.text} must be a whole number from 1 to {LARGEST_CONTEXT}"
        )
    return int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidTaskError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidTaskError(f"{path} is not text in UTF-8: {error}") from error


def _text_windows(symbols: torch.Tensor, context: int, most: int) -> Split:
    """Return windows of a stretch of text, evenly spread, each with the symbol that follows it."""
    step = -(-(len(symbols) - context) // most)
    inputs = symbols[:-1].unfold(0, context, step)  # a view: [n, L]
    return Split(inputs, symbols[context::step].long())
