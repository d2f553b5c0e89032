"""PPO's losses and other figures of the policy, each with its history."""

from typing import Final

from rich.cells import cell_len
from rich.text import Text

from esper.karn.sanctum.drawing.charts import sparkline
from esper.karn.sanctum.drawing.judgement import figure_style
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.plot import Series, fits, plots
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.banner import GUIDE_NAMES
from esper.karn.sanctum.schema import RunState, SanctumSnapshot
from esper.karn.text.figures import ABSENT, figure
from esper.karn.text.palette import DARK, Palette
from esper.leyline.score_guides import guides_of

_LABEL_WIDTH: Final = 15
_SHORT_LABEL_WIDTH: Final = 9
_VALUE_WIDTH: Final = 6
_GAP: Final = 2  # between two columns of figures
_SHORTEST_TREND: Final = 12  # in updates: a trend of two always looks like a jump

#: Label, short label, and field of TrainingState; the history is in `<field>_history`.
_FIGURES: Final = (
    ("Score", "Score", "score"),
    ("Policy loss", "Pol. loss", "policy_loss"),
    ("Value loss", "Val. loss", "value_loss"),
    ("Entropy", "Entropy", "entropy"),
    ("KL", "KL", "approximate_kl"),
    ("Clip fraction", "Clip", "clip_fraction"),
    ("Explained var.", "Expl.var.", "explained_variance"),
    ("Gradient norm", "Grad norm", "gradient_norm"),
)


def guides_on_score(run: RunState) -> dict[str, float]:
    """Return the scores of simple policies for comparison, by short names; empty if unknown."""
    known = guides_of(run.task, run.steps)
    return {short: known[name] for name, short in GUIDE_NAMES.items() if name in known}


def render_policy(
    snapshot: SanctumSnapshot, width: int, height: int = 10, palette: Palette = DARK
) -> Text:
    """Return the figures with their histories, as charts if there is room, else as lines.

    If there is no room for a line each, they are put in two columns.
    """
    foot = _foot(snapshot, width, palette)
    room = height - len(foot)
    if room < len(_FIGURES):
        lines = _two_columns(snapshot, width, palette)
    else:
        lines = plots(_series(snapshot, palette), width, room, palette)
    lines += foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _series(snapshot: SanctumSnapshot, palette: Palette) -> list[Series]:
    training, update = snapshot.training, snapshot.run.update
    guides = guides_on_score(snapshot.run)
    return [
        Series(
            label,
            getattr(training, f"{field}_history"),
            style=_style(snapshot, field, palette),
            value=getattr(training, field),
            x_name="update",
            x_first=1,  # a history always covers the whole run
            x_last=update,
            guides=guides if field == "score" else {},
        )
        for label, _, field in _FIGURES
    ]


def _style(snapshot: SanctumSnapshot, field: str, palette: Palette) -> str:
    value = getattr(snapshot.training, field)
    return figure_style(f"training.{field}", value, snapshot.run.update, palette)


def _two_columns(snapshot: SanctumSnapshot, width: int, palette: Palette) -> list[Text]:
    column_width = (width - _GAP) // 2
    cells = []
    for _, label, field in _FIGURES:
        value = getattr(snapshot.training, field)
        cell = Text(no_wrap=True).append(label.ljust(_SHORT_LABEL_WIDTH), palette.muted)
        width = _VALUE_WIDTH - (value is None or not value < 0)  # room for a minus sign
        cell.append(f" {figure(value, width):<{_VALUE_WIDTH}}", _style(snapshot, field, palette))
        history = getattr(snapshot.training, f"{field}_history")
        room = max(0, column_width - cell.cell_len - 1)
        cell.append(" ").append_text(
            sparkline(history[-max(room, _SHORTEST_TREND) :], room, palette)
        )
        cell.truncate(column_width, overflow="ellipsis", pad=True)
        cells.append(cell)
    gap = Text(" " * _GAP, no_wrap=True)
    return [gap.join(cells[start : start + 2]) for start in range(0, len(cells), 2)]


def _foot(snapshot: SanctumSnapshot, width: int, palette: Palette) -> list[Text]:
    """Return the lines below the curves, as detailed as fits."""
    training = snapshot.training
    rate = figure(training.learning_rate, 7)
    run = training.skipped_in_run
    is_known = training.learning_rate is not None
    skipped = f"{training.minibatches_skipped}/{training.minibatches}" if is_known else ABSENT
    # Under fp16 a second line follows, so both labels get the same width.
    label = "Skipped".ljust(_LABEL_WIDTH) if training.loss_scale is not None else "Skipped "
    for rest, name in (
        (f" minibatches, {run} in this run", "Learning rate "),
        (f", {run} in all", "Learning rate "),
        (f", {run} in all", "lr "),
    ):
        rest = rest if is_known else ""
        room = width - len(label + skipped + rest + name + rate)
        if room >= _GAP:
            break
    style = _style(snapshot, "minibatches_skipped", palette) if is_known else palette.faint
    line = Text(no_wrap=True).append(label, palette.muted).append(skipped, style)
    line.append(rest, palette.muted).append(" " * max(_GAP, room))
    line.append(name, palette.muted).append(rate, _style(snapshot, "learning_rate", palette))
    return [line] if training.loss_scale is None else [line, _scaler(snapshot, width, palette)]


def _scaler(snapshot: SanctumSnapshot, width: int, palette: Palette) -> Text:
    """Return the minibatches skipped to find the fp16 loss scale: dim, as that is normal."""
    training = snapshot.training
    line = Text(no_wrap=True).append("Scaler skipped".ljust(_LABEL_WIDTH), palette.muted)
    skipped = f"{training.minibatches_rescaled}/{training.minibatches}"
    run = training.rescaled_in_run
    scale = figure(training.loss_scale)
    style = figure_style("training.loss_scale", training.loss_scale, snapshot.run.update, palette)
    style = palette.muted if style == palette.ink else style
    for words in (
        f"{skipped} minibatches, {run} in this run, loss scale ",
        f"{skipped}, {run} in all, scale ",
        f"{run} in all, scale ",
    ):
        if line.cell_len + len(words) + len(scale) <= width:
            break
    return line.append(words, palette.muted).append(scale, style)


class PolicyPanel(Panel):
    """Shows PPO's losses and other figures of the policy."""

    BORDER_TITLE = "Policy"
    ABOUT = "how good the grown networks are, and how training goes"

    def part(self, view: View) -> object:
        run = view.snapshot.run
        return view.snapshot.training, run.update, run.task, run.steps

    def redraw(self) -> None:
        """Draw again; without a chart of the score, show scores for comparison in the title.

        If there is no room for all, the highest are shown.
        """
        super().redraw()
        region = self.scrollable_content_region
        if self._view is None or region.width < 1 or region.height < 1:
            return
        is_charted = fits(len(_FIGURES), region.width, region.height - 1)
        guides = {} if is_charted else guides_on_score(self._view.snapshot.run)
        notes = [f"{name} {value:.2f}" for name, value in guides.items()]
        # The border has a corner and a blank on both sides of the title.
        room = region.width - 2 - cell_len(f"{self.BORDER_TITLE} · ")
        while notes and cell_len(", ".join(notes)) > room:
            notes.pop(0)
        self.note(", ".join(notes))

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_policy(view.snapshot, width, height, palette)
