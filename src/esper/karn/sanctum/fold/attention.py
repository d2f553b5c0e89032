"""Lights that need attention: those that are lit and not acknowledged."""

from dataclasses import dataclass
from typing import Final

from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import SanctumSnapshot, TamiyoState
from esper.leyline.telemetry import GROUPS

#: Name of a head or group, and "inf" or "nan"; or `STALLED_LIGHT`.
Light = tuple[str, str]
#: The light of training that moved no weight although steps were due.
STALLED_LIGHT: Final[Light] = ("training", "stalled")
#: Names of the lights on the screen.
LIGHT_WORDS: Final = {"inf": "Inf", "nan": "NaN"}


@dataclass(frozen=True)
class Lamps:
    """Display state of the lights, independent of the run."""

    bright: bool = True  # the bright phase of a blinking light
    is_test: bool = False  # lamp test: all lights are on


def light_of(kind: str) -> str:
    """Return the light of a kind of value: "inf" or "nan"."""
    return "nan" if kind == "nan" else "inf"


def lit_lights(tamiyo: TamiyoState) -> list[Light]:
    """Return the lights of Inf and NaN that are on."""
    return [
        (head, light)
        for light in ("inf", "nan")
        for head, is_lit in tamiyo.latch(light).items()
        if is_lit
    ]


def lights_on(snapshot: SanctumSnapshot) -> list[Light]:
    """Return all lights that are on: those of Inf and NaN, and `STALLED_LIGHT`."""
    stalled = [STALLED_LIGHT] if snapshot.training.stalled_latch else []
    return [*lit_lights(snapshot.tamiyo), *stalled]


def acknowledged(view: View) -> frozenset[Light]:
    """Return the acknowledged lights."""
    return frozenset((seen.head, seen.light) for seen in view.acknowledgements)


def unacknowledged(view: View) -> frozenset[Light]:
    """Return the lights that are on and not acknowledged."""
    known = acknowledged(view)
    return frozenset(light for light in lights_on(view.snapshot) if light not in known)


def next_light(view: View) -> Light | None:
    """Return the unacknowledged light that came on first; None if there is none."""
    waiting = unacknowledged(view)
    in_order = [(seen.head, light_of(seen.kind)) for seen in view.snapshot.tamiyo.first]
    in_order += sorted(waiting)  # some have no known time
    return next((light for light in in_order if light in waiting), None)


def light_words(light: Light) -> str:
    """Return a light in words: "op Inf", "stalled"."""
    if light == STALLED_LIGHT:
        return "stalled"
    head, kind = light
    return f"{GROUPS.get(head, head).removeprefix('the ')} {LIGHT_WORDS.get(kind, kind)}"


def is_drill(tamiyo: TamiyoState) -> bool:
    """Return whether a light of Inf or NaN is on, and drills alone caused all of them."""
    lit = lit_lights(tamiyo)
    return bool(lit) and all(tamiyo.planted(light).get(head, False) for head, light in lit)


class Attention:
    """Tracks which lights have triggered the bell, so that each does so once per run."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._rung: frozenset[Light] = frozenset()

    def rings(self, view: View) -> bool:
        """Return whether a view has an unacknowledged light that has not triggered the bell."""
        if view.snapshot.run.run_id != self._run:
            self._run, self._rung = view.snapshot.run.run_id, frozenset()
        new = unacknowledged(view) - self._rung
        self._rung |= new
        return bool(new)
