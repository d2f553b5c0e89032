"""Whether detection misses, invents or misnames anything: random faults and clean updates.

The cases alternate between families: lasting and transient faults, the same with legal infinities
present, pairs of faults, a state that is not finite before the update, faults in acting and in
hosts, and clean updates under extreme conditions. The number of a case determines it. Policy,
heads, sizes, masks, precision, place and kind are drawn at random, and the truth is known by
construction. In every seventh case an independent scan of all operations confirms it.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from random import Random

import torch

from detection.backgrounds import LEGAL_INFINITIES, fits
from detection.before import run_acting, run_hosts
from detection.clean import (
    Verdict,
    run_endless_overflow,
    run_given,
    run_hostile,
    run_sequence,
    run_settling,
)
from detection.faults import HEAD_FAULTS, Fault
from detection.pairs import plant_pair
from detection.reference import scanning
from detection.shared_faults import SHARED_FAULTS
from detection.stage import PRECISIONS, Sight, Stage, is_finite
from detection.state_faults import STATE_FAULTS
from detection.verdict import (
    ATTRIBUTION,
    CRASHED,
    FALSE_ALARM,
    INNOCENT,
    MISSED,
    SORTS,
    UNSOUND,
    Complaint,
    complaint_of_faults,
)

FAULTS = (*HEAD_FAULTS, *SHARED_FAULTS, *STATE_FAULTS)

#: The families in the order in which they take turns.
CYCLE = (
    "clean", "lasting", "once", "pair", "clean", "given", "once on a legal infinity",
    "acting", "sequence", "lasting on a legal infinity", "clean", "pair", "once", "hosts",
    "clean", "lasting", "pair", "given", "once in preparation", "once",
)  # fmt: skip
CLEAN = ("clean", "sequence")
_ATTEMPTS = 200
_SCANNED = 7  # every such case is scanned; it shares no divisor with the length of the cycle


@dataclass(frozen=True)
class Outcome:
    """The result of one case; `sort` and `complaint` are empty if it is right."""

    number: int
    family: str
    name: str  # of the fault, or of what made a clean update hostile
    sort: str = ""
    complaint: str = ""


def run_case(number: int) -> Outcome:
    """Run the case of that number."""
    rounds, slot = divmod(number, len(CYCLE))
    family = CYCLE[slot]
    turn = rounds * CYCLE.count(family) + CYCLE[:slot].count(family)
    random = Random(number)
    try:
        name, complaint = _verdict(family, turn, number, random)
    except Exception as error:  # noqa: BLE001 - one broken case must not hide all others
        name, complaint = "", (CRASHED, f"{type(error).__name__}: {error}")
    return Outcome(number, family, name, *(complaint or ("", "")))


def _verdict(family: str, turn: int, number: int, random: Random) -> Verdict:
    """Return the verdict of the first random stage in which the case of that turn has a place.

    Raises:
        LookupError: it has a place in none.
    """
    for attempt in range(_ATTEMPTS):
        with ExitStack() as exits:
            verdict = _run(family, turn, number, random, exits, attempt)
        if verdict is not None:
            return verdict
    raise LookupError("no stage was drawn in which this case has a place")


def _run(
    family: str, turn: int, number: int, random: Random, exits: ExitStack, attempt: int
) -> Verdict | None:
    """Run a case in one random stage; return None if it has no place there."""
    warm = random.random() < 0.5
    if family == "sequence" and turn % 8 in (6, 7):
        single = {"amp": "fp16", "ppo_epochs": 1, "minibatches": 1}
        run = run_settling if turn % 8 == 6 else run_endless_overflow
        return run(Stage(random, exits, **single))
    if family.startswith(("lasting", "once")):
        return _run_fault(family, turn, number, random, exits, attempt, warm=warm)
    stage = Stage(random, exits, warm=warm)
    if family == "clean":
        return run_hostile(stage, turn, is_scanned=number % _SCANNED == 0)
    if family == "pair":
        return _run_pair(stage, turn)
    if family == "given":
        return run_given(stage, turn)
    if family == "acting":
        return run_acting(stage, turn)
    if family == "hosts":
        return run_hosts(stage, turn)
    return run_sequence(stage, turn)


def _run_fault(
    family: str,
    turn: int,
    number: int,
    random: Random,
    exits: ExitStack,
    attempt: int,
    *,
    warm: bool,
) -> Verdict | None:
    """Run a case with one fault: lasting or once, on a background, or in the preparation."""
    lasting, prepares = family.startswith("lasting"), "preparation" in family
    faults = [fault for fault in FAULTS if lasting or fault.times == "both"]
    if prepares:
        faults = [fault for fault in faults if fault.prepares]
    elif lasting:
        faults += [fault for fault in faults if fault.prepares]  # there, in the preparation
    number_of_fault = turn % len(faults)
    fault = faults[number_of_fault]
    prepares |= fault in faults[:number_of_fault]
    backgrounds = LEGAL_INFINITIES if "infinity" in family else ()
    # Some faults have no place in some precision: then another has its turn.
    amp = PRECISIONS[(turn // len(faults) + attempt // 20) % 3]
    if backgrounds:
        background = backgrounds[turn // len(faults) % len(backgrounds)]
        is_gradient = "derivative" in fault.reach
        if not fits(background, fault.name, lasting=lasting, is_gradient=is_gradient):
            background = backgrounds[0] if fault.name != "forbidden_choice_taken" else (
                backgrounds[3]
            )  # fmt: skip
        amp = None
    stage = Stage(random, exits, amp=amp, warm=warm or fault.needs_moments)
    if backgrounds and not background(stage):
        return None
    was_finite = is_finite(stage)
    where = stage.where(lasting=lasting, prepares=prepares)
    sight = fault.plant(stage, where)
    if sight is None:
        return None
    is_scanned = number % _SCANNED == 0 and not backgrounds and stage.config.amp != "fp16"
    with scanning(stage) if is_scanned else nullcontext() as scan:
        result = stage.update()
    complaint = complaint_of_faults(result, [sight])
    keeps_state = not lasting or fault.reach not in ("step", "flip", "moment", "scale", "given")
    if complaint is None and was_finite and keeps_state and not is_finite(stage):
        complaint = ATTRIBUTION, "the state is not finite afterwards"
    saw_it = scan is None or sight.kind != "nan" or scan.saw_nan
    complaint = _unsound(stage, [(fault, sight)], saw_it) or complaint
    return fault.name, complaint


def _unsound(
    stage: Stage, planted: Sequence[tuple[Fault, Sight]], saw_it: bool
) -> Complaint | None:
    """Return why a case is not what it is meant to be: a fault that did not fire as it should."""
    if not saw_it:
        return UNSOUND, "the scan saw no NaN"
    for where, turn in stage.fired:
        if turn > 1 and not where.lasting:
            return UNSOUND, "a transient fault fired twice"
    fired = {where for where, _ in stage.fired}
    due = sum(fault.times == "both" for fault, _ in planted)
    if len(fired) < due:
        return UNSOUND, f"{due} faults were due, {len(fired)} fired"
    return None


def _run_pair(stage: Stage, turn: int) -> Verdict | None:
    pair = plant_pair(stage, turn)
    if pair is None:
        return None
    name, sights = pair
    return name, complaint_of_faults(stage.update(), sights)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign and print its figures; return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="chooses other cases")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run this one case")
    parser.add_argument("--family", choices=sorted(set(CYCLE)), help="run this family alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    first = options.seed * 1_000_000
    numbers = range(first, first + options.cases) if options.only is None else [options.only]
    start = time.perf_counter()
    outcomes = []
    for number in numbers:
        if options.family not in (None, CYCLE[number % len(CYCLE)]):
            continue
        outcomes.append(run_case(number))
        last = outcomes[-1]
        if last.complaint:
            print(
                f"FAILED {number} {last.family}: {last.name}: {last.sort}: {last.complaint}",
                flush=True,
            )
    report(outcomes, time.perf_counter() - start)
    return int(any(outcome.complaint for outcome in outcomes))


def report(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Print the figures of a campaign: by family and fault, the failures, and the summary."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.family, outcome.name].append(outcome)
    print(f"  {'family':28} {'fault or background':44} cases" + "".join(f"{s:>12}" for s in SORTS))
    for (family, name), group in sorted(groups.items()):
        counts = Counter(outcome.sort for outcome in group)
        failed = "".join(f"{counts[sort] or '-':>12}" for sort in SORTS)
        print(f"  {family:28} {name:44} {len(group):5}{failed}")
    faults = [outcome for outcome in outcomes if outcome.family not in CLEAN]
    clean = [outcome for outcome in outcomes if outcome.family in CLEAN]

    def count(sort: str, of: Sequence[Outcome] = outcomes) -> int:
        return sum(outcome.sort == sort for outcome in of)

    seen = len(faults) - count(MISSED, faults)
    right = sum(not outcome.sort for outcome in faults)
    print(f"{len(outcomes)} cases in {seconds:.0f} s")
    print(f"recall             {_share(seen, len(faults))} of faults")
    print(f"right throughout   {_share(right, len(faults))} of faults")
    print(f"innocent lights    {count(INNOCENT)}")
    print(f"false alarms       {count(FALSE_ALARM)}, of {len(clean)} clean cases")
    print(f"wrong attributions {count(ATTRIBUTION)}")
    print(f"unsound cases      {count(UNSOUND)}, crashed {count(CRASHED)}")
    for sort in SORTS:
        numbers = [outcome.number for outcome in outcomes if outcome.sort == sort]
        if numbers:
            print(f"{sort}: {', '.join(map(str, numbers))}")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%} ({part} of {whole})" if whole else "-"
