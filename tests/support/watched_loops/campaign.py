"""Whether a watch misses, invents or misnames anything in the training loops of many libraries.

A case is a library, an action space and a fault, or a clean run. Its number determines it. Each is
trained unwatched, watched, and watched with steps left out; the truth stands with each fault.
"""

import argparse
import logging
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from esper.leyline.telemetry import STALLED_UPDATES
from esper.watching.agreement import OnNonfinite
from esper.watching.recorder import Trouble
from esper.watching.watch import Watch
from watched_loops import plain_stages, sb3_stages
from watched_loops.faults import CLEAN, FAULTS, Fault
from watched_loops.reference import Run, difference, run, weights_are_finite
from watched_loops.stage import Stage
from watched_loops.truth import ANY, Truth

#: In which way a case can be wrong.
MISSED = "missed"
FALSE_ALARM = "false alarm"
HEAD = "wrong head"
QUANTITY = "wrong quantity, kind or phase"
ORIGIN = "wrong operation or line"
STALL = "standing still not reported, or reported wrongly"
UNEQUAL = "training was changed"
FAILURE = "the watch itself failed"
SKIP = "weights not finite although steps were left out"
BROKEN = "the case itself is wrong"
SORTS = (MISSED, FALSE_ALARM, HEAD, QUANTITY, ORIGIN, STALL, UNEQUAL, FAILURE, SKIP, BROKEN)
#: Least shares of right cases.
REQUIRED = {MISSED: 1.0, FALSE_ALARM: 1.0, HEAD: 0.99, ORIGIN: 0.95}
_OF_MODEL = ("parameters", "moments", "gradient", "features", "logits", "mean", "output")
CLEAN_EVERY = 5  # every such case is clean

#: Functions that build a stage from random draws, by name. A new library gets a module with its own
#: table, at the end: the number of a case depends on the order.
LIBRARIES = {**plain_stages.LIBRARIES, **sb3_stages.LIBRARIES}


@dataclass(frozen=True)
class Outcome:
    """The result of one case; `complaints` is empty if it is right."""

    number: int
    library: str
    fault: str
    truth: Truth
    complaints: Mapping[str, str] = field(default_factory=dict)


def run_case(number: int) -> Outcome | None:
    """Run the case of that number; None if its library is not installed."""
    names = list(LIBRARIES)
    turn, slot = divmod(number, len(names))
    library = names[slot]
    if LIBRARIES[library] is None:
        return None
    fault, truth = _fault_of(library, number, turn)
    try:
        complaints = _complaints(library, number, fault, truth)
    except Exception as error:  # noqa: BLE001 - one broken case must not hide all others
        complaints = {BROKEN: f"{type(error).__name__}: {error}"}
    return Outcome(number, library, fault.name, truth, complaints)


def _fault_of(library: str, number: int, turn: int) -> tuple[Fault, Truth]:
    """Return the first fault from this turn on that has a place in the library."""
    is_clean = turn % CLEAN_EVERY == CLEAN_EVERY - 1
    table = CLEAN if is_clean else FAULTS
    start = turn // CLEAN_EVERY if is_clean else turn - turn // CLEAN_EVERY
    for attempt in range(len(table)):
        fault = table[(start + attempt) % len(table)]
        truth = fault.plant(_stage(library, number))
        if truth is not None:
            return fault, truth
    raise LookupError(f"no fault has a place in {library}")


def _stage(library: str, number: int) -> Stage:
    return LIBRARIES[library](Random(number))


def _planted(library: str, number: int, fault: Fault) -> Stage:
    stage = _stage(library, number)
    fault.plant(stage)
    return stage


def _complaints(library: str, number: int, fault: Fault, truth: Truth) -> dict[str, str]:
    stage = _planted(library, number, fault)
    weights: list[Tensor] = []
    stage.before_learning.append(lambda _: weights.append(_weights_of(stage)))
    unwatched = run(stage, lambda stage: stage.train(stage), looks=True)
    is_huge = truth.stalls
    if is_huge:
        last = [*weights[-STALLED_UPDATES:], _weights_of(stage)]
        truth = replace(truth, stalls=all(torch.equal(last[0], one) for one in last))
    if not truth.is_certain and not unwatched.is_broken:
        truth = replace(truth, has_incident=False, can_skip=True)
    elif truth.has_incident != unwatched.is_broken and not is_huge:
        if truth.has_incident and not unwatched.error:
            return {BROKEN: "the fault had no effect"}
        if not truth.has_incident and "scaled" not in _stage(library, number).tags:
            return {BROKEN: "a clean case is not finite"}
    watched, watch = _watched(library, number, fault, "report")
    complaints = dict(
        complaints_of(watch, replace(truth, is_certain=truth.is_certain and not is_huge))
    )
    where = difference(unwatched.state, watched.state)
    if where or unwatched.error != watched.error:
        complaints[UNEQUAL] = where or f"{watched.error!r}, not {unwatched.error!r}"
    if watch.failures:
        complaints[FAILURE] = watch.last_failure
    if truth.can_skip:
        stage = _planted(library, number, fault)
        _, watch = _watched(library, number, fault, "skip", stage)
        if not weights_are_finite(stage):
            complaints[SKIP] = "with on_nonfinite='skip'"
        if watch.failures:
            complaints[FAILURE] = watch.last_failure
    return complaints


def _weights_of(stage: Stage) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in stage.model.parameters()])


def _watched(
    library: str, number: int, fault: Fault, mode: OnNonfinite, stage: Stage | None = None
) -> tuple[Run, Watch]:
    stage = stage or _planted(library, number, fault)
    watches: list[Watch] = []

    def train(stage: Stage) -> None:
        with tempfile.TemporaryDirectory() as folder, stage.watching(mode, Path(folder)) as watch:
            watches.append(watch)
            stage.train(stage)

    result = run(stage, train)
    return result, watches[0]


def complaints_of(watch: Watch, truth: Truth) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with what a watch found."""
    if watch.is_stalled != truth.stalls:
        yield STALL, f"stalled is {watch.is_stalled}"
    if not truth.has_incident:
        for trouble in watch.troubles:
            found = trouble.explanation.found
            # A variable of the loop, such as a loss, may overflow while all gradients are finite.
            is_variable = bool(found) and all(one.quantity not in _OF_MODEL for one in found)
            if truth.is_certain or not is_variable:
                yield FALSE_ALARM, words_of(trouble)
                return
        return
    if not watch.troubles:
        yield MISSED, "no incident"
        return
    first, *others = watch.troubles
    found = first.explanation.found
    owners = {one.owner for one in found}
    lit = {one.owner for trouble in others for one in trouble.explanation.found}
    if truth.owners != ANY:
        if owners != set(truth.owners):
            yield HEAD, f"{sorted(owners)}, not {sorted(truth.owners)}: {words_of(first)}"
        elif innocent := lit - set(truth.owners) - {"shared"}:
            yield HEAD, f"later also {sorted(innocent)}"
        if wrong := _wrong_quantity(first, truth):
            yield QUANTITY, f"{wrong}: {words_of(first)}"
    if wrong := _wrong_origin(first, truth):
        yield ORIGIN, f"{wrong}: {words_of(first)}"


def _wrong_quantity(trouble: Trouble, truth: Truth) -> str:
    found = trouble.explanation.found
    quantities = {one.quantity for one in found}
    if truth.where.quantities != ANY and not all(
        any(word in quantity for word in truth.where.quantities) for quantity in quantities
    ):
        return f"quantity {sorted(quantities)}, not {truth.where.quantities}"
    if not {one.kind for one in found} & set(truth.kinds):
        return f"kind, not {truth.kinds}"
    if trouble.phase not in truth.phases:
        return f"phase {trouble.phase}, not {truth.phases}"
    return ""


def _wrong_origin(trouble: Trouble, truth: Truth) -> str:
    where, origin = truth.where, trouble.explanation.origin
    if origin is None:
        reason = trouble.explanation.why_no_origin
        return f"no operation ({reason})" if truth.needs_origin else ""
    if where.operations != ANY and origin.operation.base not in where.operations:
        return f"operation {origin.operation.base}, not {where.operations}"
    place = origin.operation.place
    places = {(place.file, place.line), place.loop}
    if where.lines and not any(places & line.places for line in where.lines):
        return f"line {place.line} ({place.code}), not {[line.code for line in where.lines]}"
    return ""


def words_of(trouble: Trouble) -> str:
    """Return one line about an incident."""
    found = ", ".join(
        f"{one.owner} {one.quantity} {one.kind} {one.part}".strip()
        for one in trouble.explanation.found
    )
    origin = trouble.explanation.origin
    if origin is None:
        began = trouble.explanation.why_no_origin
    else:
        place = origin.operation.place
        file = place.file.rpartition("/")[2]
        began = f"{origin.operation.name} {file}:{place.line}: {place.code}: {origin.cause}"
    return f"[{found or 'nothing'}] {trouble.phase} u{trouble.update} m{trouble.minibatch}; {began}"


def numbers_of(seed: int, cases: int, libraries: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of cases: of some libraries, from a million per seed on."""
    names = list(LIBRARIES)
    number = seed * 1_000_000
    while cases:
        if names[number % len(names)] in libraries:
            cases -= 1
            yield number
        number += 1


def report(outcomes: Sequence[Outcome], seconds: float) -> bool:
    """Print the results; return whether they are as good as required."""
    by_sort: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        for sort in outcome.complaints:
            by_sort[sort].append(outcome)
    for sort in SORTS:
        classes = Counter((one.library, one.fault) for one in by_sort[sort])
        for (library, fault), count in classes.most_common():
            print(f"{sort}: {count} × {fault} in {library}")
    libraries = Counter(one.library for one in outcomes)
    print("\ncases: " + ", ".join(f"{name} {count}" for name, count in libraries.items()))
    faults = [one for one in outcomes if one.truth.has_incident or one.truth.stalls]
    clean = len(outcomes) - len(faults)
    totals = {MISSED: len(faults), FALSE_ALARM: clean, HEAD: len(faults), ORIGIN: len(faults)}
    is_good = not any(by_sort[sort] for sort in SORTS if sort not in REQUIRED)
    names = {MISSED: "recall", FALSE_ALARM: "clean runs without alarm", HEAD: "right head",
             ORIGIN: "right first operation and line"}  # fmt: skip
    for sort, least in REQUIRED.items():
        wrong = len({one.number for one in by_sort[sort]})
        share = 1 - wrong / max(1, totals[sort])
        is_good &= share >= least
        print(f"{names[sort]}: {share:.2%} of {totals[sort]} (at least {least:.0%})")
    for sort in SORTS:
        if sort not in REQUIRED:
            print(f"{sort}: {len(by_sort[sort])}")
    print(f"{len(outcomes)} cases in {seconds:.0f} s")
    return is_good


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first number")
    parser.add_argument("--only", type=int, nargs="+", help="run the cases of these numbers")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("esper").setLevel(logging.CRITICAL)
    numbers = options.only or numbers_of(options.seed, options.cases, options.libraries)
    started = time.monotonic()
    outcomes = []
    for number in numbers:
        outcome = run_case(number)
        if outcome is None:
            continue
        outcomes.append(outcome)
        if outcome.complaints or options.only:
            print(f"case {number}: {outcome.fault} in {outcome.library}")
            for sort, text in outcome.complaints.items():
                print(f"    {sort}: {text}")
    return 0 if report(outcomes, time.monotonic() - started) else 1
