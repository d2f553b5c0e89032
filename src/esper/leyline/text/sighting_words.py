"""The words for sightings of NaN and Inf in logs, reports and screens.

Hosts are counted from 1 in these words, as on the screens, and from 0 in stored data. Environments
are counted as libraries count them, from 0.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from esper.leyline.telemetry import HOSTS, NonfiniteSighting

#: Kinds of values in words; "inf" is an infinity whose sign was not reported.
KIND_WORDS: Final = {"nan": "NaN", "+inf": "Inf", "-inf": "-Inf", "inf": "Inf"}
#: Marks a sighting that did not occur again when the computation was repeated.
NOT_REPRODUCED: Final = "not reproduced"
#: Marks a sighting that only drills caused so far.
PLANTED: Final = "planted by a drill"
#: The part under which a broken step counter of Adam is reported.
STEP_COUNTER: Final = "step counter"

#: Phases in words; empty for minibatches, which are the normal case.
_PHASE_WORDS: Final = {
    "given": "before the update",
    "hosts": "while training",
    "environment": "from",
    "acting": "while acting",
    "preparation": "while preparing",
    "update": "",
}
#: Maximum number of further hosts that are listed by number.
_HOSTS_NAMED: Final = 8


def nonfinite_kind(value: float) -> str | None:
    """Return "nan", "+inf" or "-inf"; None for a finite value."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    return None


def place_words(
    phase: str, host: int | None, step: int | None, other_hosts: Sequence[int] = ()
) -> str:
    """Return when and where something was seen: "while acting, host 4, step 7".

    What an environment returned is "from environment 0, step 201".

    Empty if no more is known than the minibatch.

    Args:
        phase: one of `PHASES`.
        host: the first host, counted from 0; None if unknown, or not of a single host.
        step: step of the episode in that host, counted from 1; None if unknown.
        other_hosts: further hosts, counted from 0.
    """
    words = _PHASE_WORDS.get(phase, phase)
    if phase == "hosts":
        words += f" host {host + 1}" if host is not None else " a host"
    elif phase == "environment":
        words += f" environment {host}" if host is not None else " the environment"
    elif host is not None:
        words = joined(words, f"host {host + 1}")
    return joined(
        words,
        "" if step is None else f"step {step}",
        f"also in {_hosts(other_hosts)}" if other_hosts else "",
    )


def minibatch_words(epoch: int, minibatch: int) -> str:
    """Return "epoch 1, minibatch 2".

    Empty before the first minibatch, where both are 0. A watched training loop shows no epochs:
    then it is "minibatch 2".
    """
    return joined(f"epoch {epoch}" if epoch else "", f"minibatch {minibatch}" if minibatch else "")


def quantity_words(quantity: str, part: str) -> str:
    """Return a quantity with its tensor, where it has several: "parameters (lstm.bias_ih_l0)"."""
    return f"{quantity} ({part})" if part else quantity


def what_words(seen: NonfiniteSighting) -> str:
    """Return what was seen: "op NaN in logits"."""
    kind = KIND_WORDS.get(seen.kind, seen.kind)
    return f"{seen.head} {kind} in {quantity_words(seen.quantity, seen.part)}"


def where_words(seen: NonfiniteSighting, other_hosts: Sequence[int] = ()) -> str:
    """Return where in its update something was first seen: "host 4, step 7, epoch 1, minibatch 2".

    Empty if nothing is known.
    """
    return joined(
        place_words(seen.phase, seen.host, seen.step, other_hosts),
        minibatch_words(seen.epoch, seen.minibatch),
    )


def sighting_words(seen: NonfiniteSighting, other_hosts: Sequence[int] = ()) -> str:
    """Return a sighting in words.

    For example "op NaN in logits, while acting, host 4, step 7, not reproduced".
    """
    return joined(
        what_words(seen),
        where_words(seen, other_hosts),
        "" if seen.reproduced else NOT_REPRODUCED,
        PLANTED if seen.planted else "",
    )


def sighting_lines(sightings: Iterable[NonfiniteSighting]) -> list[str]:
    """Return a line of `sighting_words` for each sighting, with one line for similar hosts.

    Hosts are similar if they have the same quantity, kind and result of a repetition.
    """
    groups: dict[tuple[object, ...], list[NonfiniteSighting]] = {}
    for place, seen in enumerate(sightings):
        alike = (seen.quantity, seen.kind, seen.reproduced)
        groups.setdefault(alike if seen.head == HOSTS else (place,), []).append(seen)
    return [
        sighting_words(first, [one.host for one in others if one.host is not None])
        for first, *others in groups.values()
    ]


def joined(*parts: str) -> str:
    """Return the parts that are not empty, separated by commas."""
    return ", ".join(filter(None, parts))


def _hosts(hosts: Sequence[int]) -> str:
    names = [str(host + 1) for host in hosts[:_HOSTS_NAMED]]
    if len(hosts) > len(names):
        names.append(f"{len(hosts) - len(names)} more")
    if len(names) == 1:
        return f"host {names[0]}"
    return f"hosts {', '.join(names[:-1])} and {names[-1]}"
