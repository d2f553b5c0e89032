"""One decision in detail: for each head, its choices with bars for their probabilities."""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.decisions.decision_row import choice_name, share
from esper.karn.sanctum.drawing.charts import NONFINITE_SIGNS
from esper.karn.sanctum.schema import DecisionState, HeadDecision, RunState
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.text.figures import cut
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.sighting_words import nonfinite_kind

#: Marks the choice that was taken.
TAKEN: Final = "»"
_ILLEGAL: Final = "illegal"
_SHARE_WIDTH: Final = 5  # " 53%", and a gap before
_SHORTEST_BAR: Final = 4
_LONGEST_NAME: Final = 16
_NARROWEST: Final = 22  # of a column of heads
_BEST: Final = 36
_WIDEST: Final = 50
_GAP: Final = 2
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def render_decision(
    decision: DecisionState, run: RunState, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return a block for each head, in as many columns as fit.

    A block is the head's name and a line for each choice with a bar for its probability. Inactive
    heads are dim. The result may have more than `height` lines.
    """
    # The op first: it decides which other heads are active.
    heads = sorted(decision.heads, key=lambda one: one.head != "op")
    lines = _blocks(heads, run, width, height, palette) if heads else []
    for is_missing, sentence in (
        (not heads, "The choices are not known."),
        (
            not any(one.probabilities for one in heads),
            "This run does not record the probabilities of the other choices.",
        ),
    ):
        if is_missing:
            lines.insert(0, Text(sentence, style=palette.muted, no_wrap=True))
            break
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _blocks(
    heads: Sequence[HeadDecision], run: RunState, width: int, height: int, palette: Palette
) -> list[Text]:
    sizes = [1 + len(_shares(one)) for one in heads]
    most = max(1, min(len(heads), (width + _GAP) // (_NARROWEST + _GAP)))
    best = max(1, min(most, (width + _GAP) // (_BEST + _GAP)))
    for columns, space in [*((columns, 1) for columns in range(best, most + 1)), (most, 0)]:
        stacks = _stacks(sizes, columns, space)
        if max(_size(stack, sizes, space) for stack in stacks) <= height:
            break
    column_width = min(_WIDEST, (width + _GAP) // columns - _GAP)
    blank = Text(" " * column_width, no_wrap=True)
    drawn: list[list[Text]] = []
    for stack in stacks:
        column: list[Text] = []
        for at in stack:
            column += [blank] * (space if column else 0)
            column += _block(heads[at], run, column_width, palette)
        drawn.append(column)
    gap = Text(" " * _GAP, no_wrap=True)
    return [
        gap.join([column[row] if row < len(column) else blank for column in drawn])
        for row in range(max(map(len, drawn)))
    ]


def _stacks(sizes: Sequence[int], columns: int, space: int) -> list[list[int]]:
    """Return the blocks of each column: each block goes to the shortest column so far."""
    stacks: list[list[int]] = [[] for _ in range(columns)]
    for at in range(len(sizes)):
        min(stacks, key=lambda stack: _size(stack, sizes, space)).append(at)
    return stacks


def _size(stack: Sequence[int], sizes: Sequence[int], space: int) -> int:
    return sum(sizes[at] for at in stack) + space * max(0, len(stack) - 1)


def _shares(one: HeadDecision) -> dict[int, float]:
    """Return the probabilities by choice; at least that of the choice taken."""
    shares = dict(enumerate(one.probabilities))
    shares.setdefault(one.choice, one.probability)
    return shares


def _block(one: HeadDecision, run: RunState, width: int, palette: Palette) -> list[Text]:
    title = Text(no_wrap=True)
    title.append(display_name(one.head), f"bold {palette.ink}" if one.is_active else palette.muted)
    title.append("" if one.is_active else "  inactive", palette.faint)
    title.truncate(width, overflow="ellipsis", pad=True)
    lines = [title]
    # The same width for all heads, so that bars can be compared.
    name_width = max(1, min(_LONGEST_NAME, width - 1 - 1 - _SHORTEST_BAR - _SHARE_WIDTH))
    for choice, probability in _shares(one).items():
        name = choice_name(run, one.head, choice)
        line = _choice(one, choice, name, probability, name_width, width, palette)
        line.truncate(width, overflow="ellipsis", pad=True)
        lines.append(line)
    return lines


def _choice(
    one: HeadDecision,
    choice: int,
    name: str,
    probability: float,
    name_width: int,
    width: int,
    palette: Palette,
) -> Text:
    is_taken = choice == one.choice
    dim = palette.muted
    style = f"bold {palette.accent}" if is_taken else palette.ink
    line = Text(no_wrap=True).append(TAKEN if is_taken else " ", style if one.is_active else dim)
    is_illegal = probability == 0.0 and not is_taken
    line.append(
        cut(name, name_width).ljust(name_width) + " ",
        palette.faint if is_illegal else style if one.is_active else dim,
    )
    if is_illegal:
        return line.append(_ILLEGAL, palette.faint)
    kind = nonfinite_kind(probability)
    is_share = kind is None and 0.0 <= probability <= 1.0 + 1e-6
    bar_width = max(0, width - line.cell_len - _SHARE_WIDTH)
    if kind is not None:
        line.append(NONFINITE_SIGNS[kind].ljust(bar_width), f"bold {palette.critical}")
    else:
        ink = palette.faint if not one.is_active else palette.accent if is_taken else palette.curve
        line.append(bar(probability, bar_width), ink)
    number = share(probability).rjust(_SHARE_WIDTH)
    if not is_share:
        # A value outside 0 to 1 is an alert even for an inactive head.
        return line.append(number, f"bold {palette.critical}")
    return line.append(number, style if one.is_active else dim)


def bar(filled: float, width: int) -> str:
    """Return a bar of exactly `width` cells, filled by `filled`, 0 to 1, to an eighth of a cell."""
    eighths = round(8 * width * min(1.0, max(0.0, filled)))
    if filled > 0.0 and width > 0:
        eighths = max(1, eighths)  # a possible choice has a visible bar
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)
