"""The operation in which an incident began, in plain words."""

import re
from typing import Final

from esper.leyline.telemetry import IncidentOrigin
from esper.leyline.text.source_paths import short_path

#: Phases of a minibatch in words.
_PHASES: Final = {
    "preparation": "before the forward pass",
    "forward": "forward pass",
    "backward": "backward pass",
    "step": "optimizer step",
}
#: What causes begin with, in plain words.
_CAUSES: Final = {
    "poisoned input: ": "an input was not finite already: ",
    "poisoned weight: ": "a weight was not finite already: ",
    "corrupted optimizer state: ": "the state of the optimizer was wrong already: ",
    "poisoned setting: ": "a setting is not finite: ",
    "a constant of the program: ": "a constant in the code is not finite: ",
}
#: Causes that came before the operation: where it was wrong then, in plain words.
_BEFORE: Final = {
    "poisoned input: ": "came in with ",
    "poisoned weight: ": "was already in the weight ",
    "corrupted optimizer state: ": "was already in the state of the optimizer, ",
}
_WRONG: Final = re.compile(r"^(?:variable )?(.+) is (nan|\+inf|-inf)(?= \(and |$)")
_KINDS: Final = {"nan": "NaN", "+inf": "Inf", "-inf": "-Inf"}
_KIND: Final = re.compile(r"\bis (nan|\+inf|-inf)(?=$| )")


def operation_words(origin: IncidentOrigin) -> str:
    """Return an operation and its phase: "mean, backward pass"."""
    parts = origin.operation.split(".")
    name = parts[1] if len(parts) > 1 and parts[0] == "aten" else origin.operation
    phase = _PHASES.get(origin.phase, origin.phase)
    return f"{name}, {phase}" if phase else name


def cause_words(cause: str) -> str:
    """Return a cause in plain words: "an input was not finite already: x[3] is NaN"."""
    for beginning, words in _CAUSES.items():
        if cause.startswith(beginning):
            cause = words + cause.removeprefix(beginning).removeprefix("variable ")
            break
    return _KIND.sub(lambda found: f"is {_KINDS[found[1]]}", cause)


def line_words(origin: IncidentOrigin) -> str:
    """Return the source line: "stable_baselines3/ppo/ppo.py:219, train"; empty if unknown."""
    if not origin.file:
        return ""
    place = f"{short_path(origin.file)}:{origin.line}"
    return f"{place}, {origin.function}" if origin.function else place


def loop_words(origin: IncidentOrigin) -> str:
    """Return the line of the training loop, with a short path.

    Empty where it is unknown, or the line of the operation itself.
    """
    if origin.loop.startswith(f"{origin.file}:{origin.line}:"):
        return ""
    path, separator, rest = origin.loop.partition(":")
    return f"{short_path(path)}{separator}{rest}"


def no_origin_words(why: str) -> str:
    """Return why no operation is named: that it is not known, or that none made the value."""
    return why if why.startswith("no operation") else f"where it began is not known: {why}"


def came_in_with(cause: str) -> str:
    """Return what was not finite before any operation: "came in with obs[0, 3], which is NaN".

    Empty for a cause that lies in the operation itself.
    """
    for beginning, words in _BEFORE.items():
        found = _WRONG.match(cause.removeprefix(beginning)) if cause.startswith(beginning) else None
        if found is not None:
            others = cause.removeprefix(beginning)[found.end() :]
            return f"{words}{found[1]}, which is {_KINDS[found[2]]}{others}"
    return ""


def origin_words(origin: IncidentOrigin) -> str:
    """Return an origin in one sentence, without its subject.

    For example "began in exp, forward pass, at net.py:7: overflow", or, where no operation made it,
    "came in with obs[0, 3], which is NaN; first used by addmm, forward pass, at net.py:7".
    """
    at = f", at {short_path(origin.file)}:{origin.line}" if origin.file else ""
    counters = f" ({origin.counters})" if origin.counters else ""
    if before := came_in_with(origin.cause):
        return f"{before}{counters}; first used by {operation_words(origin)}{at}"
    return f"began in {operation_words(origin)}{at}{counters}: {cause_words(origin.cause)}"
