"""Whether detection misses, invents or misnames anything: random faults beside clean updates.

Half of the cases have one fault, put as a real value into a real tensor of the update; the other
half have none, and everything that is hostile and legal. Faults take turns; policy, heads, sizes,
masks, precision, place and kind are drawn at random. A case follows from its number alone.

    uv run python benchmarks/detection_campaign.py [--cases 4000] [--seed 0] [--only SEED]

Prints recall, false alarms and wrong attributions, and of each failure the number that makes it
happen again (`--only`). Exits with 1 if there is any.
"""

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import torch
from detection_faults import FAULTS
from detection_stage import HOSTILE, Expected, Stage

from esper.leyline.telemetry import SHARED
from esper.simic.agent.figures import UpdateResult


@dataclass(frozen=True)
class Outcome:
    """What came of one case. `complaint` is empty if all was as it should be."""

    number: int
    name: str  # of the fault, or of what made a clean update hostile
    is_fault: bool
    seen: bool  # whether anything was reported
    complaint: str = ""


def run_case(number: int) -> Outcome:
    """Run the case of that number: with a fault if it is odd, clean if it is even."""
    random = Random(number)
    turn, is_fault = divmod(number, 2)
    return _faulty(number, turn, random) if is_fault else _clean(number, turn, random)


def _faulty(number: int, turn: int, random: Random) -> Outcome:
    fault = FAULTS[turn % len(FAULTS)]
    while True:
        with ExitStack() as exits:
            stage = Stage(random, exits)
            expected = fault(stage)
            if expected is None:
                continue  # this fault has no place in that stage: try another
            result = stage.agent.update(stage.rollout)
        complaint = complaint_of_fault(result, expected)
        return Outcome(number, fault.__name__, True, bool(result.head_nonfinite), complaint)


def _clean(number: int, turn: int, random: Random) -> Outcome:
    hostile = HOSTILE[turn % len(HOSTILE)]
    while True:
        with ExitStack() as exits:
            stage = Stage(random, exits)
            if not hostile(stage):
                continue
            result = stage.agent.update(stage.rollout)
        complaint = complaint_of_clean(result, stage)
        return Outcome(number, hostile.__name__, False, bool(result.head_nonfinite), complaint)


def complaint_of_clean(result: UpdateResult, stage: Stage) -> str:
    """Return what is wrong with the report of an update in which nothing broke."""
    if result.head_nonfinite:
        return f"false alarm: {result.head_nonfinite}"
    if any((*result.head_inf_detected.values(), *result.head_nan_detected.values())):
        return "false alarm: a light without a sighting"
    if result.minibatches_skipped:
        return f"{result.minibatches_skipped} good minibatches were skipped"
    if not result.reproduced:
        return "said not to be reproduced"
    if not all(parameter.isfinite().all() for parameter in stage.policy.parameters()):
        return "left weights that are not finite"
    return ""


def complaint_of_fault(result: UpdateResult, expected: Expected) -> str:
    """Return what is wrong with the report of an update with one fault."""
    sightings = result.head_nonfinite
    if not sightings:
        return f"missed: {expected}"
    first = sightings[0]
    if (first.head, first.quantity) != (expected.head, expected.quantity):
        return f"wrong first-out: {first} for {expected}"
    if (first.epoch, first.minibatch) != expected.first:
        return f"wrong first place: {first} for {expected}"
    if expected.kind not in (None, first.kind):
        return f"wrong kind: {first} for {expected}"
    same = [
        seen for seen in sightings
        if (seen.head, seen.quantity) == (expected.head, expected.quantity)
    ]  # fmt: skip
    if expected.kind is not None and len(same) > 1:
        return f"kinds that were not there: {same}"
    if max((seen.last_epoch, seen.last_minibatch) for seen in same) != expected.last:
        return f"wrong last place: {same} for {expected}"
    if {seen.head for seen in sightings} != {expected.head}:
        return f"wrong head: {sightings} for {expected}"
    if expected.head == SHARED and len({seen.quantity for seen in sightings}) > 1:
        return f"more than the cause: {sightings} for {expected}"
    lights = (result.head_nan_detected, result.head_inf_detected)
    lit = {head for light in lights for head, is_on in light.items() if is_on}
    if lit != {expected.head} - {SHARED}:
        return f"wrong lights: {lit} for {expected}"
    is_nan = first.kind == "nan"
    if expected.head != SHARED and not lights[0 if is_nan else 1][expected.head]:
        return f"wrong light for {expected}"
    if not result.reproduced:
        return "said not to be reproduced"
    return ""


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=4000, help="half with a fault, half clean")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run this one case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first = options.seed * 1_000_000
    numbers = range(first, first + options.cases) if options.only is None else [options.only]
    start = time.perf_counter()
    outcomes = []
    for number in numbers:
        outcomes.append(run_case(number))
        if outcomes[-1].complaint:
            print(f"FAILED {number} {outcomes[-1].name}: {outcomes[-1].complaint}", flush=True)
    report(outcomes, time.perf_counter() - start)
    return int(any(outcome.complaint for outcome in outcomes))


def report(outcomes: list[Outcome], seconds: float) -> None:
    """Print the figures of a campaign."""
    faults = [outcome for outcome in outcomes if outcome.is_fault]
    clean = [outcome for outcome in outcomes if not outcome.is_fault]
    seen = sum(outcome.seen for outcome in faults)
    for kind, group in (("fault", faults), ("clean", clean)):
        for name, count in sorted(Counter(outcome.name for outcome in group).items()):
            failed = sum(outcome.name == name and bool(outcome.complaint) for outcome in group)
            print(f"  {kind}  {name:40} {count:6}  failed {failed}")
    recall = f"{seen / len(faults):.2%}" if faults else "-"
    wrong = sum(outcome.seen and bool(outcome.complaint) for outcome in faults)
    print(f"{len(outcomes)} cases in {seconds:.0f} s")
    print(f"recall              {recall}  ({seen} of {len(faults)} faults)")
    print(f"false alarms        {sum(bool(o.complaint) for o in clean)} of {len(clean)} clean")
    print(f"wrong attributions  {wrong}")


if __name__ == "__main__":
    sys.exit(main())
