"""One decision in a line: the choices, their probability, and the critic's value."""

import math
from collections.abc import Sequence

from rich.text import Text

from esper.karn.sanctum.drawing.judgement import finite_style
from esper.karn.sanctum.schema import DecisionState, RunState
from esper.karn.text.figures import cut, figure
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.plain_text import name_at
from esper.leyline.text.sighting_words import nonfinite_kind


def render_decision_row(
    decision: DecisionState, run: RunState, width: int, palette: Palette = DARK
) -> Text:
    """Return one line: the host, the choices, their probability, and the critic's value."""
    line = Text("  ", no_wrap=True).append(f"host {decision.host + 1}".ljust(9), palette.muted)
    right = Text(no_wrap=True).append(" p ", palette.muted)
    probability = joint_probability(decision)
    right.append(share(probability).rjust(4), finite_style(probability, palette, palette.ink))
    right.append("  value ", palette.muted)
    style = finite_style(decision.value, palette, palette.ink)
    right.append(figure(decision.value).ljust(5), style)
    line.append(decision_words(decision, run), palette.ink)
    line.truncate(max(0, width - right.cell_len), overflow="ellipsis", pad=True)
    line.append_text(right).truncate(width, overflow="ellipsis")
    return line


def decision_words(decision: DecisionState, run: RunState) -> str:
    """Return the choices of the active heads: "GERMINATE early · conv · gated · 3 steps · 0.7"."""
    active = {
        one.head: choice_name(run, one.head, one.choice) for one in decision.heads if one.is_active
    }
    op = active.pop("op", "")
    return " ".join(part for part in (op, " · ".join(active.values())) if part)


def joint_probability(decision: DecisionState) -> float:
    """Return the probability of the decision: the product over the active heads."""
    return math.prod(one.probability for one in decision.heads if one.is_active)


def choice_name(run: RunState, head: str, choice: int) -> str:
    """Return the name of a choice of a head; its number if the run has no name for it."""
    return name_at(run.heads.get(head, ()), choice)


def share(probability: float) -> str:
    """Return a probability in four characters, such as "53%", "<1%", "NaN" or "+Inf"."""
    if nonfinite_kind(probability) is not None:
        return figure(probability)
    if not 0.0 <= probability <= 1.0 + 1e-6:  # rounding may slightly exceed 1
        return cut(f"{probability:.1f}", 4)
    percent = 100.0 * probability
    return "<1%" if 0.0 < percent < 0.5 else f"{percent:.0f}%"


def when(decisions: Sequence[DecisionState], run: RunState) -> str:
    """Return the update and step of decisions: "update 37, step 11 of 24"."""
    if not decisions:
        return ""
    newest = max(decisions, key=lambda one: (one.update, one.step))
    of = f" of {run.steps}" if run.steps else ""
    return f"update {newest.update}, step {newest.step}{of}"
