"""The plot of an evaluation: accuracy against parameters and against training cost, as SVG.

A scatter plot of a dozen points needs no plotting library. It has no background and grey text, so
it is readable on light and dark pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from esper.simic.axis import Axis
from esper.simic.evaluation.contest import Entry, Evaluation
from esper.simic.evaluation.outcomes import Outcomes

_WIDTH, _LEAST_HEIGHT = 960, 422  # without the rows of the legend
_ROW = 24  # height of a row of the legend, which has four columns
_TOP, _BOTTOM, _PANEL = 58, 350, 380  # edges of the panels, and their width
_LEFTS = (64, 556)
_INK = "#808080"
_FAINT = "#80808040"
#: Colour and mark of each contestant, which also differ without colour.
_SIGNS = {
    "agent": ("#d6453d", "star"),
    "constant": ("#d6453d", "plus"),
    "none": ("#808080", "circle"),
    "none-tuned": ("#808080", "square"),
    "none-same-cost": ("#808080", "diamond"),
    "random": ("#9a6fb0", "triangle"),
    "random-plan": ("#9a6fb0", "circle"),
    "random-best": ("#9a6fb0", "diamond"),
    "heuristic": ("#2a8fbd", "square"),
    "heuristic-same-cost": ("#2a8fbd", "diamond"),
    "static": ("#c98a1b", "diamond"),
    "halving": ("#c98a1b", "square"),
    "cnn": ("#b0578d", "triangle"),
    "same-architecture": ("#3f9b4f", "cross"),
    "same-cost": ("#3f9b4f", "plus"),
}


@dataclass(frozen=True)
class _Point:
    """A mean over episodes, with the interval of the accuracy for a contestant."""

    x: float
    y: float
    low: float
    high: float


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points with no higher one at the same or a smaller x, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def evaluation_plot(evaluation: Evaluation) -> str:
    """Return the plot as the text of an SVG file."""
    height = _LEAST_HEIGHT + _ROW * -(-len(evaluation.entries) // 4)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>Test accuracy against size and cost, {escape(evaluation.task)}</title>",
        _text(
            _LEFTS[0],
            18,
            f"{evaluation.task}: {evaluation.episodes} episodes; marks are means with 95 % "
            "intervals, dots are other candidates",
        ),
    ]
    accuracy = _accuracy_axis(evaluation)
    for left, axis_name, label in (
        (_LEFTS[0], "parameters", "parameters of the finished network"),
        (_LEFTS[1], "multiply_adds", "multiply-adds of its training, in millions"),
    ):
        parts += _panel(evaluation, left, axis_name, label, accuracy)
    parts += _legend(evaluation)
    return "\n".join([*parts, "</svg>", ""])


def _accuracy_axis(evaluation: Evaluation) -> Axis:
    values = [
        value
        for entry in evaluation.entries
        for value in (
            *(float(outcomes.test_accuracy.mean()) for outcomes in _further(entry)),
            entry.standings["test_accuracy"].mean.low,
            entry.standings["test_accuracy"].mean.high,
        )
    ]
    return Axis(*_widened(values), _BOTTOM, _TOP)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _further(entry: Entry) -> tuple[Outcomes, ...]:
    """Return the results of the candidates besides the contestant itself."""
    own = entry.contestant.strata
    every = entry.contestant.candidates + entry.contestant.resized
    return tuple(outcomes for outcomes in every if not any(outcomes is each for each in own))


def _x(outcomes: Outcomes, name: str) -> float:
    scale = 1e6 if name == "multiply_adds" else 1.0
    return float(getattr(outcomes, name).mean()) / scale


def _panel(evaluation: Evaluation, left: int, name: str, label: str, accuracy: Axis) -> list[str]:
    values = [
        _x(outcomes, name)
        for entry in evaluation.entries
        for outcomes in entry.contestant.strata + _further(entry)
    ]
    across = Axis(*_widened(values), left, left + _PANEL)
    parts = [*_frame(left, across, accuracy), _text(left + _PANEL, _BOTTOM + 36, label, "end")]
    for entry in evaluation.entries:
        colour = _SIGNS[entry.contestant.name][0]
        if entry.contestant.name == "static":
            every = entry.contestant.strata + _further(entry)
            points = [(_x(each, name), float(each.test_accuracy.mean())) for each in every]
            path = " ".join(f"{across.at(x):.1f},{accuracy.at(y):.1f}" for x, y in frontier(points))
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" '
                'stroke-dasharray="5 4"/>'
            )
        parts += [
            f'<circle cx="{across.at(_x(outcomes, name)):.1f}" '
            f'cy="{accuracy.at(float(outcomes.test_accuracy.mean())):.1f}" r="2.5" '
            f'fill="{colour}" fill-opacity="0.6"><title>{escape(outcomes.what)}</title></circle>'
            for outcomes in _further(entry)
        ]
    for entry in reversed(evaluation.entries):  # the agent on top
        colour, mark = _SIGNS[entry.contestant.name]
        mean = entry.standings["test_accuracy"].mean
        x = across.at(float(np.mean([_x(each, name) for each in entry.contestant.strata])))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{accuracy.at(mean.low):.1f}" '
            f'y2="{accuracy.at(mean.high):.1f}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(_mark(mark, x, accuracy.at(mean.value), colour, entry.contestant.name))
    return parts


def _frame(left: int, across: Axis, accuracy: Axis) -> list[str]:
    parts = []
    for tick in accuracy.ticks():
        y = accuracy.at(tick)
        parts.append(
            f'<line x1="{left}" x2="{left + _PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>'
        )
        parts.append(_text(left - 8, y + 4, f"{tick:.2f}", "end"))
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 5}" stroke="{_INK}"/>'
        )
        parts.append(_text(x, _BOTTOM + 19, f"{tick:,.0f}", "middle"))
    parts.append(
        f'<line x1="{left}" x2="{left + _PANEL}" y1="{_BOTTOM}" y2="{_BOTTOM}" stroke="{_INK}"/>'
    )
    parts.append(_text(left - 44, _TOP - 16, "test accuracy"))
    return parts


def _legend(evaluation: Evaluation) -> list[str]:
    parts = []
    for number, entry in enumerate(evaluation.entries):
        name = entry.contestant.name
        row, column = divmod(number, 4)
        x, y = _LEFTS[0] + 8 + column * 220, _BOTTOM + 68 + row * _ROW
        parts.append(_mark(_SIGNS[name][1], x, y, _SIGNS[name][0], name))
        value = entry.standings["test_accuracy"].mean.value
        note = ", dashed: frontier" if name == "static" else ""
        parts.append(_text(x + 14, y + 4.5, f"{name} {value:.3f}{note}"))
    return parts


def _mark(kind: str, x: float, y: float, colour: str, title: str) -> str:
    about = f"<title>{escape(title)}</title>"
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}">{about}</circle>'
    if kind in ("cross", "plus"):
        ends = (
            ((-5, -5, 5, 5), (-5, 5, 5, -5)) if kind == "cross" else ((-6, 0, 6, 0), (0, -6, 0, 6))
        )
        path = " ".join(
            f"M{x + x1:.1f},{y + y1:.1f}L{x + x2:.1f},{y + y2:.1f}" for x1, y1, x2, y2 in ends
        )
        return f'<path d="{path}" stroke="{colour}" stroke-width="3.5">{about}</path>'
    corners = {"triangle": 3, "square": 4, "diamond": 4, "star": 10}[kind]
    turn = math.pi / 4 if kind == "square" else 0.0
    points = []
    for corner in range(corners):
        radius = 7.0 if kind != "star" else (10.0, 4.4)[corner % 2]
        angle = turn - math.pi / 2 + 2 * math.pi * corner / corners
        points.append(f"{x + radius * math.cos(angle):.1f},{y + radius * math.sin(angle):.1f}")
    return f'<polygon points="{" ".join(points)}" fill="{colour}">{about}</polygon>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}">{escape(text)}</text>'
    )
