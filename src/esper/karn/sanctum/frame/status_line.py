"""A run in one line, for status bars, and in a few lines, for small terminals."""

from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import progress_bar
from esper.karn.sanctum.fold.attention import is_drill, light_words, lights_on
from esper.karn.sanctum.fold.ledgers.logged_figures import logged_figures
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.banner import HEALTHY_WORD, master_style, master_word, reasons
from esper.karn.sanctum.frame.run_times import (
    elapsed_seconds,
    planned_episodes,
    progress_share,
    remaining_seconds,
)
from esper.karn.store.liveness import StatusKind
from esper.karn.text.columns import fitted, joined
from esper.karn.text.figures import ABSENT, duration, figure, span_text
from esper.karn.text.light_signs import LIT, UNKNOWN
from esper.karn.text.palette import DARK, Palette
from esper.karn.text.run_names import without_creation_time

_SEPARATOR: Final = " · "
_NAMED: Final = 3  # lights; for more, their number is shown
_BAR_WIDTH: Final = 12


def render_line(view: View, width: int | None = None, palette: Palette = DARK) -> Text:
    """Return a run in one line: the word, its lights, progress, score and name.

    Args:
        view: a view of the run.
        width: in cells; parts that do not fit are left out. None for no limit.
        palette: the colours to choose from.
    """
    word = master_word(view)
    line = Text(no_wrap=True)
    line.append(f"{LIT} {word}", master_style(word, palette, is_past=view.position is not None))
    parts = [_problem(view, palette), *_how_far(view, palette), _score(view, palette)]
    name = Text(_name(view), style=palette.muted)
    line = fitted(line, [*parts, name], width, _SEPARATOR)
    if width is not None:
        _cut(line, width)
    return line


def render_small(view: View, width: int, height: int, palette: Palette = DARK) -> Text:
    """Return a run in at most `height` lines, the most important first."""
    if height < 2:
        return render_line(view, width, palette)
    word = master_word(view)
    style = master_style(word, palette, is_past=view.position is not None)
    first = Text(no_wrap=True).append(f"{LIT} {word}", style).append(f"  {reasons(view)[0]}")
    share = progress_share(view)
    bar = Text(no_wrap=True)
    if planned_episodes(view) or not view.snapshot.run.is_watched:
        bar.append_text(progress_bar(share, max(0, min(_BAR_WIDTH, width - 12)), palette))
        bar.append(f" {100 * share:.0f}%" if planned_episodes(view) else f" {ABSENT}", palette.ink)
    name = Text(_name(view), style=f"bold {palette.ink}")
    lines = [
        first,
        joined([name, *_how_far(view, palette)], _SEPARATOR),
        joined([bar, Text(_episodes(view), style=palette.muted)], _SEPARATOR),
        _lights(view, palette),
        _score(view, palette),
        Text(f"elapsed {duration(elapsed_seconds(view))}", style=palette.muted),
        Text("q quits, ? shows help, a acknowledges", style=palette.faint),
    ]
    lines = [line for line in lines if line.cell_len][:height]
    for line in lines:
        line.no_wrap = True
        _cut(line, width)
    return Text("\n", no_wrap=True).join(lines)


def _cut(line: Text, width: int) -> None:
    """Cut a line to its width, with an ellipsis unless there are only one or two cells."""
    line.truncate(width, overflow="ellipsis" if width > 2 else "crop")


def _problem(view: View, palette: Palette) -> Text:
    """Return the lights that are on, or else the first reason."""
    if lights_on(view.snapshot):
        return _lights(view, palette)
    if master_word(view) == HEALTHY_WORD:
        return Text()
    return Text(reasons(view)[0], style=palette.ink)


def _lights(view: View, palette: Palette) -> Text:
    lit = lights_on(view.snapshot)
    unknown = Text()
    if view.doubt.lights is not None:
        unknown = Text(f"{UNKNOWN} lights not known", style=f"bold {palette.warning}")
    if not lit:
        return unknown or Text("no Inf, no NaN", style=palette.muted)
    words = ", ".join(map(light_words, lit)) if len(lit) <= _NAMED else f"{len(lit)} lights"
    words = f"drill: {words}" if is_drill(view.snapshot.tamiyo) else words
    return joined([Text(words, style=f"bold {palette.critical}"), unknown], _SEPARATOR)


def _how_far(view: View, palette: Palette) -> list[Text]:
    """Return the status, the progress, and the remaining time."""
    parts = [Text(str(view.status.kind), style=palette.ink)]
    if view.snapshot.run.is_watched:
        parts.append(Text(f"update {view.snapshot.run.update}", style=palette.ink))
    if planned_episodes(view):
        parts.append(Text(f"{100 * progress_share(view):.0f}%", style=palette.ink))
    left = remaining_seconds(view)
    if left is not None:
        parts.append(Text(f"{span_text(left)} left", style=palette.ink))
    elif view.status.kind in (StatusKind.WAITING, StatusKind.STARTING):
        parts.append(Text(duration(elapsed_seconds(view)), style=palette.ink))
    return parts


def _episodes(view: View) -> str:
    planned = planned_episodes(view)
    return f"{view.snapshot.run.episodes_done}/{planned} episodes" if planned else ""


def _score(view: View, palette: Palette) -> Text:
    score = view.snapshot.training.score
    logged = logged_figures(view.snapshot.training)[:1] if view.snapshot.run.is_watched else []
    if logged:
        name = Text(f"{logged[0].label} ", style=palette.muted, no_wrap=True)
        return name.append(figure(logged[0].value), palette.ink)
    if score is None:
        return Text()
    return Text("score ", style=palette.muted).append(figure(score), palette.ink)


def _name(view: View) -> str:
    run = view.snapshot.run
    unknown = ABSENT if view.directory is None else view.directory.name
    return without_creation_time(run.name or run.run_id or unknown)
