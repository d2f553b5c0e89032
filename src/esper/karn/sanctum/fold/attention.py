"""Which lights still call for attention: those that are lit and that nobody has acknowledged."""

from dataclasses import dataclass
from typing import Final

from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import TamiyoState
from esper.leyline.telemetry import GROUPS

#: A head's or a group's name, and "inf" or "nan".
Light = tuple[str, str]
#: How a light is written.
LIGHT_WORDS: Final = {"inf": "Inf", "nan": "NaN"}


@dataclass(frozen=True)
class Lamps:
    """How the lights are shown at this moment, whatever they say."""

    bright: bool = True  # the phase of a blinking light in which it stands out most
    is_test: bool = False  # all are on, to show that they can be


def light_of(kind: str) -> str:
    """Return the light that a kind of value puts on: "inf" or "nan"."""
    return "nan" if kind == "nan" else "inf"


def lit_lights(tamiyo: TamiyoState) -> list[Light]:
    """Return the lights that are on."""
    return [
        (head, light)
        for light in ("inf", "nan")
        for head, is_lit in tamiyo.latch(light).items()
        if is_lit
    ]


def acknowledged(view: View) -> frozenset[Light]:
    """Return the lights that somebody has acknowledged."""
    return frozenset((seen.head, seen.light) for seen in view.acknowledgements)


def unacknowledged(view: View) -> frozenset[Light]:
    """Return the lights that are on and that nobody has acknowledged."""
    known = acknowledged(view)
    return frozenset(light for light in lit_lights(view.snapshot.tamiyo) if light not in known)


def next_light(view: View) -> Light | None:
    """Return the light to acknowledge next: of those that wait, the one that came on first."""
    waiting = unacknowledged(view)
    in_order = [(seen.head, light_of(seen.kind)) for seen in view.snapshot.tamiyo.first]
    in_order += sorted(waiting)  # of some it is not known when they came on
    return next((light for light in in_order if light in waiting), None)


def light_words(light: Light) -> str:
    """Return a light as it is written: "op Inf"."""
    head, kind = light
    return f"{GROUPS.get(head, head).removeprefix('the ')} {LIGHT_WORDS.get(kind, kind)}"


def is_drill(tamiyo: TamiyoState) -> bool:
    """Return whether a light is on, and drills alone put on all that are."""
    lit = lit_lights(tamiyo)
    return bool(lit) and all(tamiyo.planted(light).get(head, False) for head, light in lit)


class Attention:
    """Remembers which lights have rung, so that each rings once for a run."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._rung: frozenset[Light] = frozenset()

    def rings(self, view: View) -> bool:
        """Take note of a view; return whether one of its lights is new and not acknowledged."""
        if view.snapshot.run.run_id != self._run:
            self._run, self._rung = view.snapshot.run.run_id, frozenset()
        new = unacknowledged(view) - self._rung
        self._rung |= new
        return bool(new)
