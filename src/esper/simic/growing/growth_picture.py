"""The picture of a network's growth: its accuracy over the steps, and the seeds in each slot.

It is an SVG file without a background and with grey text, so that it can be read on light and on
dark pages.
"""

from collections.abc import Iterator
from html import escape

from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES, Stage
from esper.simic.axis import Axis
from esper.simic.growing.records import Grown

_WIDTH, _LEFT, _RIGHT = 900, 84, 870
_TOP, _BOTTOM = 44, 244  # edges of the curve
_LANES, _LANE, _GAP = 274, 34, 20  # top of the first lane, height of a lane, gap between two
_INK, _FAINT = "#808080", "#80808040"
_GROWN = "#d6453d"
#: Colours of the stages, which also differ in height and words.
_COLOURS = {
    Stage.GERMINATED: "#c98a1b",
    Stage.TRAINING: "#c98a1b",
    Stage.BLENDING: "#2a8fbd",
    Stage.HOLDING: "#2a8fbd",
    Stage.FOSSILIZED: "#3f9b4f",
    Stage.PRUNED: "#9a6fb0",
}
_LEGEND = (
    (Stage.TRAINING, "training, not blended in"),
    (Stage.BLENDING, "blended in, height is alpha"),
    (Stage.FOSSILIZED, "permanent part of the network"),
    (Stage.PRUNED, "pruned"),
)
_SHADOW_HEIGHT = 0.35


def growth_picture(grown: Grown) -> str:
    """Return the picture of a network's growth as the text of an SVG file."""
    lanes_end = _LANES + len(SLOT_CHOICES) * (_LANE + _GAP)
    height = lanes_end + 62
    title = "Validation accuracy and the seeds in each slot"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">',
        f"<title>{title}</title>",
        *_curve(grown),
        *(part for slot in range(len(SLOT_CHOICES)) for part in _lane(grown, slot)),
        *_steps(grown, lanes_end),
        *_legend(height - 10),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(grown: Grown, step: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * step / grown.steps


def _curve(grown: Grown) -> Iterator[str]:
    """Yield the curves of the network and of its host without growth, with their axis."""
    accuracy = [moment.accuracy for moment in grown.moments]
    every = [*accuracy, *grown.idle_accuracy]
    low, high = min(every), max(every)
    margin = max(0.03, 0.06 * (high - low))
    low, high = max(0.0, low - margin), min(1.0, high + margin)

    axis = Axis(low, high, _BOTTOM, _TOP)
    for value in axis.ticks():
        y = axis.at(value)
        yield (
            f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    for values, style in (
        # The dashes are wider than the line above them: both are visible where they overlap.
        (grown.idle_accuracy, f'stroke="{_INK}" stroke-width="5" stroke-dasharray="5 5"'),
        (accuracy, f'stroke="{_GROWN}" stroke-width="2"'),
    ):
        points = " ".join(
            f"{_x(grown, step):.1f},{axis.at(value):.1f}" for step, value in enumerate(values)
        )
        yield f'<polyline points="{points}" fill="none" {style}/>'
    yield (
        f'<text x="{_LEFT}" y="24"><tspan fill="{_GROWN}" font-weight="bold">— this network</tspan>'
        f'<tspan dx="18">- - the same host without growth</tspan>'
        f'<tspan dx="18">(validation accuracy)</tspan></text>'
    )


def _lane(grown: Grown, slot: int) -> Iterator[str]:
    """Yield the seeds of one slot: a bar for each step, named at the first step of a seed."""
    top = _LANES + slot * (_LANE + _GAP)
    base = top + _LANE
    yield f'<text x="{_LEFT - 8}" y="{base - 12}" text-anchor="end">{SLOT_CHOICES[slot]}</text>'
    yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{base}" y2="{base}" stroke="{_FAINT}"/>'
    begins = True
    for step, moment in enumerate(grown.moments[1:], start=1):
        stage, blueprint = Stage(int(moment.stage[slot])), int(moment.blueprint[slot])
        germinated = any(
            each.slot == slot and each.to_stage == Stage.GERMINATED for each in moment.happened
        )
        if blueprint < 0:
            begins = True
            continue
        shadow = stage in (Stage.GERMINATED, Stage.TRAINING)
        share = _SHADOW_HEIGHT if shadow else max(float(moment.alpha[slot]), 0.06)
        left, right = _x(grown, step - 1), _x(grown, step)
        yield (
            f'<rect x="{left + 0.5:.1f}" width="{right - left - 1:.1f}" '
            f'y="{base - share * _LANE:.1f}" height="{share * _LANE:.1f}" '
            f'fill="{_COLOURS[stage]}" fill-opacity="0.75"/>'
        )
        if begins or germinated:
            name = escape(BLUEPRINT_CHOICES[blueprint])
            yield f'<text x="{left + 1:.1f}" y="{top - 2}" font-size="12">{name}</text>'
        begins = False


def _steps(grown: Grown, top: float) -> Iterator[str]:
    every = max(1, round(grown.steps / 12))
    for step in range(0, grown.steps + 1, every):
        x = _x(grown, step)
        yield f'<text x="{x:.1f}" y="{top + 10}" text-anchor="middle" font-size="12">{step}</text>'
    yield f'<text x="{_LEFT - 8}" y="{top + 10}" text-anchor="end" font-size="12">step</text>'


def _legend(y: float) -> Iterator[str]:
    x = _LEFT
    for stage, words in _LEGEND:
        yield (
            f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[stage]}" '
            f'fill-opacity="0.75"/><text x="{x + 18}" y="{y}" font-size="12">{words}</text>'
        )
        x += 40 + 7 * len(words)
