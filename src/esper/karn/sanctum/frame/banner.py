"""The verdict on a run as text: one word for the run, and its reasons, most serious first."""

from typing import Final

from rich.text import Text

from esper.karn.sanctum.fold.attention import is_drill, lights_on
from esper.karn.sanctum.fold.view import View
from esper.karn.store.liveness import StatusKind
from esper.karn.text.figures import figure
from esper.karn.text.light_signs import LIT
from esper.karn.text.palette import Palette
from esper.leyline.health import LEVEL_WORDS, Level
from esper.leyline.score_guides import guides_of
from esper.leyline.text.plurals import counted

HEALTHY_WORD: Final = LEVEL_WORDS[Level.OK]
#: Statuses before there is anything to judge.
_BEFORE: Final = (StatusKind.WAITING, StatusKind.STARTING)
NO_DATA: Final = "NO DATA"
ORDINARY: Final = "nothing out of the ordinary"
#: The scores of simple policies that are shown for comparison, with short names.
GUIDE_NAMES: Final = {"random choices": "random", "best hand-written rule": "hand-written rule"}
_NAMED: Final = 2  # heads; for more, their number is shown


def master_word(view: View) -> str:
    """Return the word for a run: that of its verdict, unless there is nothing to judge."""
    if view.verdict.level == Level.CRITICAL:
        return LEVEL_WORDS[Level.CRITICAL]
    if view.doubt.error is not None:
        return NO_DATA
    if view.status.kind in _BEFORE:
        return str(view.status.kind)
    return LEVEL_WORDS[view.verdict.level]


def reasons(view: View) -> tuple[str, ...]:
    """Return the reasons for the word, at least one, the most serious first."""
    if view.verdict.level != Level.CRITICAL:
        if view.doubt.error is not None:
            return ("the run cannot be read",)
        if view.status.kind in _BEFORE:
            return (view.status.sentence,)
    found = view.verdict.reasons or (_ordinary(view),)
    if is_drill(view.snapshot.tamiyo):
        found = (f"drill: {found[0]}", *found[1:])
    return found if view.position is None else (f"PAST: {_lit_since(view)}{found[0]}", *found[1:])


def _ordinary(view: View) -> str:
    """Return a line on a healthy run: the task and the score."""
    run, score = view.snapshot.run, view.snapshot.training.score
    if run.is_watched and run.update:
        return f"no Inf and no NaN in {counted(run.update, 'update')}"
    if view.position is not None or not run.task or run.is_watched:
        return ORDINARY
    task = f"task {run.task}"
    if score is None:
        return task
    known = guides_of(run.task, run.steps)
    guides = [f"{short} {known[name]:.3f}" for name, short in GUIDE_NAMES.items() if name in known]
    return f"{task}: score {figure(score)}" + (f" ({', '.join(guides)})" if guides else "")


def _lit_since(view: View) -> str:
    """Return the heads whose lights came on after the moment shown; empty if there are none."""
    assert view.position is not None
    then = lights_on(view.snapshot)
    since = list(
        dict.fromkeys(head for head, light in view.position.lit_now if (head, light) not in then)
    )
    if not since:
        return ""
    who = ", ".join(since) if len(since) <= _NAMED else f"{len(since)} heads"
    return f"lit since: {who}; then: "


def further_reasons(view: View) -> str:
    """Return the number of further reasons, and the key that shows them all."""
    others = len(reasons(view)) - 1
    return f" (+{others} more: w)" if others else ""


def reason(view: View) -> str:
    """Return the first reason for the word, and how many more there are."""
    return reasons(view)[0] + further_reasons(view)


def master_style(word: str, palette: Palette, *, is_past: bool = False) -> str:
    """Return the style of the word: only alerts have a coloured background.

    In a past moment HEALTHY is dim, so that it is not read as the state of now.
    """
    return {
        LEVEL_WORDS[Level.OK]: f"bold {palette.muted if is_past else palette.good}",
        LEVEL_WORDS[Level.NOTICE]: f"bold {palette.accent}",
        LEVEL_WORDS[Level.WARNING]: f"bold {palette.on_alert} on {palette.warning}",
        NO_DATA: f"bold {palette.on_alert} on {palette.warning}",
        LEVEL_WORDS[Level.CRITICAL]: f"bold {palette.on_alert} on {palette.critical}",
    }.get(word, f"bold {palette.muted}")


def badge(view: View, palette: Palette) -> Text:
    """Return the word for a run with the sign before it, in its style: " ● CRITICAL "."""
    word = master_word(view)
    return word_badge(word, master_style(word, palette, is_past=view.position is not None))


def word_badge(word: str, style: str) -> Text:
    """Return any word in the form of `badge`."""
    return Text(no_wrap=True).append(f" {LIT} {word} ", style)
