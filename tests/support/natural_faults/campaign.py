"""Whether a replay names the right operation, line and operand for faults as they occur in nature.

Each case makes one update with one fault (in a weight, a reward, a setting, a moment, user code
around a layer …), keeps the capsule as training does, and replays it. The expected answer is
along with each fault. Sizes, precision, place and values are drawn at random from the number of the
case, which also determines the fault. A fault that the update does not notice counts as wrong.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import torch

from esper.simic.replay.replaying import Replay, replay
from esper.simic.replay.verdict import REPRODUCED
from natural_faults.causes import CAUSES
from natural_faults.stage import Truth, capsule_of, make_setup

REQUIRED = 0.99


@dataclass(frozen=True)
class Outcome:
    """The answer of a replay in one case.

    Attributes:
        place: what is wrong with the operation, line, module or phase; empty if all are right.
        words: what is wrong with the cause's sentence; empty if it is right.
        cause: the sentence.
    """

    number: int
    name: str
    place: str
    words: str
    cause: str


def run_case(number: int) -> Outcome:
    """Run one case."""
    random = Random(number)
    fault = CAUSES[number % len(CAUSES)]
    while True:
        with ExitStack() as exits:
            setup = make_setup(random, exits, fault.settings_for(random))
            truth = fault.plant(setup)
            if truth is None:
                continue  # this fault has no place in that setup: draw another
            capsule = capsule_of(setup)
            if capsule is None:
                missed = "the update noticed nothing"
                return Outcome(number, fault.name, place=missed, words=missed, cause="")
            replayed = replay(capsule)
        origin = replayed.origin
        return Outcome(
            number=number,
            name=fault.name,
            place=wrong_place(replayed, truth),
            words=wrong_words(replayed, truth),
            cause=origin.cause if origin else "",
        )


def wrong_place(replayed: Replay, truth: Truth) -> str:
    """Return what is wrong with the operation that a replay names; empty if nothing is."""
    if replayed.verdict != REPRODUCED:
        return f"{replayed.verdict}: {'; '.join(replayed.differences)}"
    if replayed.origin is None:
        return "no operation was named"
    operation = replayed.origin.operation
    file, line = operation.place.file, operation.place.line
    if operation.base not in truth.operations:
        return f"operation {operation.base}, not {' or '.join(truth.operations)}"
    if not any((file, line) in known.places for known in truth.lines):
        codes = " or ".join(known.code for known in truth.lines)
        return f"line {line} of {file} ({operation.place.code}), not {codes}"
    if operation.module != truth.module:
        return f"module {operation.module!r}, not {truth.module!r}"
    if operation.phase not in truth.phases:
        return f"phase {operation.phase}, not {' or '.join(truth.phases)}"
    return ""


def wrong_words(replayed: Replay, truth: Truth) -> str:
    """Return what is missing in the sentence of the cause; empty if nothing is."""
    cause = replayed.origin.cause if replayed.origin else ""
    missing = [word for word in truth.words if word not in cause]
    return f"{missing} missing in {cause!r}" if missing else ""


def report(outcomes: Sequence[Outcome], seconds: float) -> float:
    """Print the results; return the lower of the two shares of right answers."""
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.name == name]
        wrong = sum(bool(outcome.place or outcome.words) for outcome in mine)
        print(f"{name:48} {len(mine):3} cases  {f'{wrong} wrong' if wrong else 'right'}")
    for outcome in outcomes:
        for complaint in filter(None, (outcome.place, outcome.words)):
            print(f"wrong: case {outcome.number} ({outcome.name}): {complaint}")
    total = len(outcomes)
    places = sum(not outcome.place for outcome in outcomes) / total
    words = sum(not outcome.words for outcome in outcomes) / total
    print(f"\n{total} cases of {len(CAUSES)} kinds in {seconds:.0f} s")
    print(f"right operation and line: {places:.2%}")
    print(f"right operand in the cause: {words:.2%}")
    return min(places, words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=3 * len(CAUSES), help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run one case and print its cause")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    numbers = range(options.first, options.first + options.cases)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    started = time.monotonic()
    outcomes = [run_case(number) for number in numbers]
    share = report(outcomes, time.monotonic() - started)
    if options.only is not None:
        print(f"cause: {outcomes[0].cause}")
    return 0 if share >= REQUIRED else 1
